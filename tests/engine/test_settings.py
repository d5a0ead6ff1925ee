"""Learning rates against tables written by hand, and frames that make no sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from frbench.engine.settings import Frame

STEPS = 4


def rates(frame, points):
    return [frame.learning_rate(epoch, step, STEPS) for epoch, step in points]


def test_milestones_drop_at_the_start_of_an_epoch():
    points = [(0, 0), (74, 3), (75, 0), (89, 3), (90, 0), (99, 3)]
    assert rates(Frame(), points) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_milestones_by_step_drop_at_the_last_minibatch_of_the_epoch_before():
    """Rice et al. look at the end of a step: t = epoch + (i + 1) / n."""
    frame = Frame(schedule="milestones_by_step", epochs=200, milestones=(100, 150))
    points = [(0, 0), (99, 2), (99, 3), (100, 0), (149, 2), (149, 3), (199, 3)]
    expected = [0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001]
    assert rates(frame, points) == pytest.approx(expected)


def test_onecycle_rises_for_its_warmup_and_falls_to_nothing():
    frame = Frame(schedule="onecycle", epochs=10, lr=0.2, warmup=0.2, milestones=())
    points = [(0, 0), (0, 2), (1, 0), (2, 0), (4, 0), (6, 0), (9, 2)]
    expected = [0, 0.05, 0.1, 0.2, 0.15, 0.1, 0.0125]
    assert rates(frame, points) == pytest.approx(expected)


def test_onecycle_without_warmup_starts_at_the_peak():
    frame = Frame(schedule="onecycle", epochs=4, lr=0.2, warmup=0)
    assert rates(frame, [(0, 0), (2, 0)]) == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"momentum": 1},
        {"weight_decay": -1e-4},
        {"schedule": "cosine"},
        {"milestones": (50, 100)},
        {"milestones": (90, 75)},
        {"milestones": (75, 75)},
        {"milestones": (-1,)},
        {"warmup": 1},
        {"padding": "wrap"},
        {"normalization": "imagenet"},
        {"validation_fraction": 0},
        {"validation_fraction": 1},
        {"validation_every": 0},
        {"statistics_before": ("both",)},
        {"precision": "fp16"},
        {"learning_rate": 0.1},
    ],
)
def test_impossible_frames_are_refused(bad):
    with pytest.raises(ValidationError):
        Frame(**bad)
