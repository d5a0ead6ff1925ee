"""What an attack column means: the settings that decide its value, as data."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Norm = Literal["Linf", "L2"]
AA_STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


class AttackSpec(BaseModel):
    """One column of the matrix, complete: two equal specs on one model and range mean one value.

    Lengths are in pixel units of [0, 1] images, in the given norm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="column, such as 'pgd20'")
    library: str = Field(description="where the attack comes from, such as 'torchattacks'")
    norm: Norm = "Linf"
    eps: Annotated[float, Field(ge=0, description="radius of the ball")] = 8 / 255
    steps: Annotated[int | None, Field(ge=1, description="gradient steps")] = None
    step_size: Annotated[float | None, Field(gt=0, description="length of one step")] = None
    random_start: bool = False
    stages: Annotated[tuple[str, ...], Field(min_length=1, description="run in this order")]

    @property
    def threat_model(self) -> str:
        """For people: `Linf 8/255`, `L2 0.5`, or `none` for clean images."""
        return "none" if self.eps == 0 else f"{self.norm} {format_length(self.eps)}"

    @property
    def is_autoattack(self) -> bool:
        """Whether images drop out stage by stage, as AutoAttack defines it."""
        return self.library == "pyautoattack"

    @property
    def draws(self) -> bool:
        """Whether the attack draws random numbers, so that its seed can change a verdict."""
        return self.random_start or self.is_autoattack

    @property
    def label(self) -> str:
        """Column heading: `PGD-20`, `AA`, or `AA (APGD-CE, APGD-T)` when stages were left out."""
        if self.is_autoattack:
            short = ", ".join(stage.upper() for stage in self.stages)
            return "AA" if self.stages == AA_STAGES else f"AA ({short})"
        if self.name.startswith("pgd"):
            return f"PGD-{self.steps}"
        return {"clean": "Clean", "fgsm": "FGSM", "cw": "C&W"}.get(self.name, self.name)


def format_length(value: float) -> str:
    """A radius as people write it: `8/255` when it is a whole number of 255ths, else `0.031`."""
    pixels = Fraction(value * 255).limit_denominator(1000)
    if pixels.denominator == 1 and abs(float(pixels) - value * 255) < 1e-6:
        return f"{pixels.numerator}/255"
    return f"{value:.6g}"
