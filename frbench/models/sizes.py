"""Networks that are made for images of another size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from frbench.errors import FrbenchError, InputError, first_line


@contextlib.contextmanager
def taking(who: str, shape: Sequence[int]) -> Iterator[None]:
    """Inside goes a forward pass that may fail because of the size of the images.

    Args:
        who: the network, for the message.
        shape: (channels, height, width) of an image.

    Raises:
        InputError: for whatever the network raises; errors of ours and of the device stay.
    """
    try:
        yield
    except (FrbenchError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # networks assert and raise whatever they like
        size = "x".join(str(side) for side in shape)
        raise InputError(f"{who} cannot take images of {size}: {first_line(error)}") from error
