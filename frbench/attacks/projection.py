"""FAB's projection without its sort: the most expensive line of AutoAttack on small networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def project_linf(points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """Smallest steps, in the maximum norm, from `points` to hyperplanes within the box [0, 1].

    Solves min |d|_inf with <w, x + d> = b and x + d in [0, 1] for every row (Croce and Hein 2020,
    FAB, section 2.2). A step of size s moves each coordinate by at most s and by at most its room
    to the box, so what it covers of the distance,

        f(s) = sum_i |w_i| min(s, room_i),

    is concave and piecewise linear. Newton's method from s = 0 reaches its root from the left in
    finitely many steps, in practice a handful, where the library sorts all coordinates.

    Args:
        points: x in [0, 1], shape (n, d).
        normals: w, shape (n, d).
        offsets: b, shape (n,).

    Returns:
        d, shape (n, d). Where no point of the box lies on the hyperplane, the corner nearest to
        it; zero where w is.
    """
    distance = (normals * points).sum(dim=1) - offsets
    # A coordinate moves against the sign of its weight while <w, x> is above b, else along it.
    direction = -normals.sign() * torch.where(distance >= 0, 1, -1).unsqueeze(1)
    room = torch.where(direction > 0, 1 - points, points)
    weights = normals.abs()
    gains = weights * room
    size = torch.zeros_like(distance)
    while True:
        free = room > size.unsqueeze(1)
        slope = torch.where(free, weights, 0).sum(dim=1)
        left = distance.abs() - torch.where(free, 0, gains).sum(dim=1)
        root = torch.where(slope > 0, left / slope, torch.inf)
        grown = root > size  # false for NaN, and where rounding would move it back
        if not grown.any():
            return direction * torch.minimum(size.unsqueeze(1), room)
        size = torch.where(grown, root, size)


@contextlib.contextmanager
def sortless_fab() -> Iterator[None]:
    """Within the block, the L-infinity FAB of pyautoattack uses `project_linf`."""
    from pyautoattack import fab_base

    original = fab_base.projection_linf
    fab_base.projection_linf = project_linf
    try:
        yield
    finally:
        fab_base.projection_linf = original
