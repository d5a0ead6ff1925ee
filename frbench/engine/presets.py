"""Presets: how large a run is. They change the frame, and `quick` shortens the recipe too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from frbench.names import lookup

EVALUATION_BATCH = 256
"""Images a chunk of an attack, of what comes from no preset too."""


class Preset(BaseModel):
    """What a preset changes, as key: value; a key of a mechanism applies where it rides along."""

    model_config = ConfigDict(frozen=True)

    name: str
    summary: str
    overrides: dict[str, Any]
    comparable: bool
    """Whether a row may stand beside published numbers."""
    test_images: int
    """Test images that `bench` attacks."""
    autoattack_images: int
    """The same for AutoAttack."""
    evaluation_batch: int = EVALUATION_BATCH
    """Images a chunk of an attack; part of a cell's identity, so not the device's choice."""
    shortened: tuple[tuple[str, str], ...] = ()
    """What was shortened, for the row: words with the key that they tell of."""

    def told(self, changed: Iterable[str]) -> str:
        """What was shortened, without that which the command line changed, as `key=value`."""
        typed = {change.partition("=")[0] for change in changed}
        kept = "".join(words for key, words in self.shortened if key not in typed)
        return kept.removeprefix(",").strip()


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick",
            summary="a small residual network on the real CIFAR-10, minutes on two CPU cores",
            overrides={
                "architecture": "quick",
                "epochs": 10,
                "lr": 0.4,
                "schedule": "onecycle",
                "milestones": (),
                # So few epochs are too short to overfit, and too short for crops.
                "pad": 0,
                "validation_images": 2000,
                "attack.steps": 2,
                "attack.step_size": 8 / 255,
                # A short schedule collapses when FR is on from the first step.
                "fr.start_epoch": 8,
                "swa.start_epoch": 8,
                "awp.start_epoch": 0,
                "ema.decay": 0.99,
            },
            comparable=False,
            test_images=1000,
            autoattack_images=256,
            shortened=(
                ("attack.steps", "2-step attack in training"),
                ("epochs", ", 10 epochs"),
                ("pad", " without crops"),
                ("architecture", ", a small model"),
            ),
        ),
        Preset(
            name="resnet18",
            summary="ResNet-18 on CIFAR-10, 100 epochs, the paper's optimizer and schedule",
            overrides={"architecture": "resnet18"},
            comparable=True,
            test_images=10_000,
            autoattack_images=10_000,
            evaluation_batch=1000,
        ),
        Preset(
            name="paper",
            summary="WideResNet-34-10 on CIFAR-10, the settings of the paper's Table 2",
            overrides={"architecture": "wrn-34-10"},
            comparable=True,
            test_images=10_000,
            autoattack_images=10_000,
        ),
        Preset(
            name="smoke",
            summary="digits and a tiny network, seconds; for tests and machines without a network",
            overrides={
                "dataset": "digits",
                "architecture": "tiny",
                "epochs": 4,
                "batch_size": 32,
                "lr": 0.1,
                "pad": 1,
                "schedule": "onecycle",
                "milestones": (),
                "validation_images": 100,
                "attack.steps": 2,
                "attack.step_size": 8 / 255,
                "fr.start_epoch": 2,
                "swa.start_epoch": 2,
                "awp.start_epoch": 0,
                "ema.decay": 0.9,
            },
            comparable=False,
            test_images=128,
            autoattack_images=32,
            shortened=(
                ("dataset", "8x8 digits"),
                ("architecture", ", a tiny model"),
                ("epochs", ", 4 epochs"),
                ("attack.steps", ", 2-step attack in training"),
            ),
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset called `name`; raises InputError with the nearest known name."""
    return lookup("preset", name, PRESETS)


def default_preset(cuda: bool) -> str:
    """`resnet18` with an accelerator, `quick` without."""
    return "resnet18" if cuda else "quick"
