"""What every test shares: one thread, a small set of real digits, the option `--defense NAME`."""

from __future__ import annotations

import pytest
import torch

from frbench.data import Dataset, Split, load_dataset


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--defense",
        action="append",
        default=[],
        help="check this recipe or composition instead of every registered one",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # on networks this small, more of them only wait for each other


@pytest.fixture(scope="session")
def small_digits() -> Dataset:
    """480 training images of the real digits: 14 steps an epoch, seconds of training."""
    data = load_dataset("digits")
    train = Split(data.train.images[:480], data.train.labels[:480], data.train.sha256)
    return Dataset(data.name, train, data.test, data.classes)
