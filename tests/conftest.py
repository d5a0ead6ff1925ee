"""What every test shares: one thread, a small set of real digits, the option `--defense NAME`."""

from __future__ import annotations

import pytest
import torch

from frbench.data import Dataset, Split, load_dataset


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--defense", action="append", default=[], help="also check this recipe or composition"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # on networks this small, more of them only wait for each other


@pytest.fixture(scope="session")
def small_digits() -> Dataset:
    """480 training images of the real digits: seconds of training, fifteen steps an epoch."""
    data = load_dataset("digits")
    train = Split(data.train.images[:480], data.train.labels[:480], data.train.sha256)
    return Dataset(data.name, train, data.test, data.classes)
