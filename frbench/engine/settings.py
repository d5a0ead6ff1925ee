"""The frame that a recipe is trained in: model, data, schedule. The defaults are the common
protocol, the paper's own settings for the models that its authors trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _one_is_many(value: Any) -> Any:
    """A single value, such as the milestone `75`, as a tuple of one."""
    return (value,) if isinstance(value, int | str) else value


class Frame(BaseModel):
    """Everything of a run that is not the recipe. Epochs count from 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: Annotated[str, Field(description="one of 'frbench list datasets'")] = "cifar10"
    architecture: Annotated[str, Field(description="one of 'frbench list models'")] = "wrn-34-10"
    epochs: Annotated[
        int, Field(ge=1, le=1_000_000, description="passes over the training images")
    ] = 100
    batch_size: Annotated[int, Field(ge=2, description="images a step")] = 128
    lr: Annotated[float, Field(gt=0, description="peak learning rate of SGD")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD, not Nesterov")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="on every parameter")] = 5e-4
    schedule: Annotated[
        Literal["milestones", "milestones_by_step", "onecycle"],
        Field(
            description="lr times 0.1 at each milestone, decided at the start of an epoch or by "
            "the end of each step; or linear up, then linear down to 0"
        ),
    ] = "milestones"
    milestones: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        BeforeValidator(_one_is_many),
        Field(description="epochs (from 0) at whose start lr drops"),
    ] = (75, 90)
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of a onecycle going up")] = 0.2
    padding: Annotated[
        Literal["zero", "reflect"], Field(description="around the image before the random crop")
    ] = "zero"
    pad: Annotated[
        int,
        Field(ge=0, le=1000, description="pixels of padding; 0 crops nothing, an eighth is usual"),
    ] = 4
    normalization: Annotated[
        Literal["none", "cifar10"], Field(description="inside the model, after the attack")
    ] = "none"
    validation_fraction: Annotated[
        float, Field(gt=0, lt=1, description="of the training set, held out; never trained on")
    ] = 0.1
    validation_images: Annotated[
        int, Field(ge=1, description="at most so many of them judge an epoch")
    ] = 5000
    validation_every: Annotated[int, Field(ge=1, description="epochs between judgements")] = 1
    test_images: Annotated[
        int,
        Field(
            ge=0,
            description="first so many test images judged beside the held-out ones, for learning "
            "curves only: nothing is chosen by them",
        ),
    ] = 0
    statistics_before: Annotated[
        tuple[Literal["clean", "adversarial"], ...],
        BeforeValidator(_one_is_many),
        Field(description="extra BatchNorm-only forwards before the optimizer's step"),
    ] = ()
    statistics_after: Annotated[
        tuple[Literal["clean", "adversarial"], ...],
        BeforeValidator(_one_is_many),
        Field(description="extra BatchNorm-only forwards after the optimizer's step"),
    ] = ()
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(description="of training forwards; auto: bf16 where the hardware has it, else fp32"),
    ] = "auto"

    @model_validator(mode="after")
    def _milestones_are_reached(self) -> Self:
        if self.schedule == "onecycle":
            return self
        late = [m for m in self.milestones if m >= self.epochs]
        if late:
            raise ValueError(f"milestone {late[0]} is beyond the last epoch {self.epochs - 1}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} do not increase")
        return self

    def learning_rate(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of one step; `step` counts from 0 within an epoch of `steps` steps."""
        if self.schedule == "onecycle":
            progress = (epoch + step / steps) / self.epochs
            if progress < self.warmup:
                return self.lr * progress / self.warmup
            return self.lr * (1 - progress) / (1 - self.warmup)
        by_step = self.schedule == "milestones_by_step"
        now = epoch + (step + 1) / steps if by_step else epoch
        return self.lr * 0.1 ** sum(now >= m for m in self.milestones)
