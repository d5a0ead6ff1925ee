"""A network that fails on images says so; a device that fails is no fault of the network."""

from __future__ import annotations

import pytest
import torch

from frbench.errors import FrbenchError, InputError
from frbench.models.sizes import taking


def test_whatever_a_network_raises_names_it_and_the_images() -> None:
    with (
        pytest.raises(InputError, match=r"^model 'm' cannot take images of 3x32x32: 14 patches$"),
        taking("model 'm'", (3, 32, 32)),
    ):
        raise AssertionError("14 patches\nand no more")


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device lost"),
        torch.OutOfMemoryError("CUDA out of memory"),
        FrbenchError("no space"),
    ],
)
def test_errors_of_the_device_and_of_ours_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, taking("model 'm'", (3, 32, 32)):
        raise error
    assert caught.value is error
