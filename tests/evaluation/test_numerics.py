"""What makes a verdict trustworthy: IEEE float32, a ball that is checked, random numbers apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from frbench.attacks import AttackSpec, pgd, seeded
from frbench.errors import FrbenchError
from frbench.evaluation import numerics

CPU = torch.device("cpu")
LINF, L2 = pgd(1, eps=8 / 255), pgd(1, norm="L2", eps=0.3)


def test_verdicts_are_computed_in_ieee_float32_with_the_same_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudnn, a = torch.backends.cudnn, torch.rand(4, 4)
    for name, value in {"allow_tf32": True, "deterministic": False, "benchmark": True}.items():
        monkeypatch.setattr(cudnn, name, value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with numerics.full_precision(CPU):
            assert (a @ a).dtype is torch.float32
            assert torch.get_float32_matmul_precision() == "highest"
            assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
        assert (a @ a).dtype is torch.bfloat16
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (True, False, True)


def moved(spec: AttackSpec, by: float) -> tuple[Tensor, Tensor]:
    """Grey images, and the same with the second one so far away in one pixel."""
    images = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    adversarial = images.clone()
    adversarial[1, 0, 2, 3] += by
    return adversarial, images


@pytest.mark.parametrize("spec", [LINF, L2], ids=["Linf", "L2"])
def test_rounding_may_leave_the_ball_and_a_hundredth_of_a_grey_level_may_not(
    spec: AttackSpec,
) -> None:
    numerics.check_ball(*moved(spec, spec.eps + 5e-7), spec, "pgd1", [4, 5])
    for wrong in (spec.eps + 0.01 / 255, -spec.eps - 0.01 / 255, float("nan")):
        with pytest.raises(FrbenchError, match="left its limits on image 5"):
            numerics.check_ball(*moved(spec, wrong), spec, "pgd1", [4, 5])


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_a_pixel_outside_the_box_is_refused_however_near(edge: float) -> None:
    images = torch.full((1, 1, 4, 4), edge)
    outside = images + (1e-6 if edge else -1e-6)
    with pytest.raises(FrbenchError, match="left its limits on image 7"):
        numerics.check_ball(outside, images, LINF, "pgd1", [7])


def test_a_random_model_is_judged_by_other_numbers_than_it_was_attacked_with() -> None:
    drawn: list[Tensor] = []

    class Random(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            drawn.append(torch.rand(len(images), 10))
            return drawn[-1]

    images, labels = torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    with seeded(6):
        Random()(images)
    for _ in range(2):
        numerics.correct(Random(), images, labels, classes=10, name="random", seed=6)
    attacked, judged, again = drawn
    assert torch.equal(judged, again) and not torch.equal(judged, attacked)
