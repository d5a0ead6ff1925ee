"""FAB's projection in our words: the library's result, and the definition of the problem."""

from __future__ import annotations

import pytest
import torch
from pyautoattack import fab_base
from pyautoattack.fab_projections import projection_linf
from torch import Tensor

from frbench.attacks.projection import project_linf, sortless_fab


def problem(scale: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Points that touch the box, planes that miss coordinates; the larger `scale`, the farther."""
    torch.manual_seed(0)
    points, normals = torch.rand(16, 192, dtype=dtype), torch.randn(16, 192, dtype=dtype)
    points[points < 0.1], points[points > 0.9] = 0.0, 1.0
    normals[torch.rand(16, 192) < 0.1] = 0.0
    away = scale * torch.randn(16, dtype=dtype) * normals.abs().sum(dim=1)
    return points, normals, (normals * points).sum(dim=1) + away


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.03, 0.3, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_projection_is_the_librarys(scale: float, dtype: torch.dtype, tolerance: float) -> None:
    points, normals, offsets = problem(scale, dtype)
    expected = projection_linf(points.clone(), normals.clone(), offsets.clone())
    assert torch.allclose(project_linf(points, normals, offsets), expected, rtol=0, atol=tolerance)


def test_projection_lands_on_the_plane_inside_the_box_and_no_shorter_step_does() -> None:
    points, normals, offsets = problem(0.03)
    steps = project_linf(points, normals, offsets)
    landed = points + steps
    assert torch.allclose((normals * landed).sum(dim=1), offsets)
    assert landed.min() >= 0 and landed.max() <= 1
    size = steps.abs().amax(dim=1, keepdim=True)
    assert size.min() > 1e-4
    # The most that a step a hair shorter could change <w, x>, up or down, does not suffice.
    low, high = (points - 0.999 * size).clamp(min=0), (points + 0.999 * size).clamp(max=1)
    ends = torch.stack([normals * low, normals * high])
    reach = torch.stack([ends.amin(dim=0).sum(dim=1), ends.amax(dim=0).sum(dim=1)])
    assert ((offsets < reach[0]) | (offsets > reach[1])).all()


def test_plane_outside_the_box_is_approached_to_the_corner() -> None:
    points, normals = torch.full((1, 3), 0.25), torch.tensor([[1.0, -2.0, 0.0]])
    step = project_linf(points, normals, torch.tensor([10.0]))
    assert torch.equal(points + step, torch.tensor([[1.0, 0.0, 0.25]]))


def test_plane_without_a_normal_moves_nothing() -> None:
    points = torch.full((2, 3), 0.25)
    step = project_linf(points, torch.zeros(2, 3), torch.tensor([0.0, 1.0]))
    assert torch.equal(step, torch.zeros(2, 3))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradient_that_is_no_number_ends_and_spoils_no_other_row(value: float) -> None:
    points, normals, offsets = problem(0.03)
    expected = project_linf(points, normals, offsets)
    normals[3, 5] = value
    found = project_linf(points, normals, offsets)
    others = [row for row in range(16) if row != 3]
    assert torch.equal(found[others], expected[others])


def test_library_projects_with_ours_inside_the_block_only() -> None:
    with sortless_fab():
        assert fab_base.projection_linf is project_linf
    assert fab_base.projection_linf is projection_linf
