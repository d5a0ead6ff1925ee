"""A recipe: which perturbed inputs to train on, which loss to descend, which mechanisms ride along.

Mechanisms are independent parts; `recipe + mechanism` composes them. A recipe holds no loop and no
tensor: the engine runs it, and its fields are all that a run has to remember of it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from frbench.engine.inner import InnerAttack
from frbench.engine.outputs import Outputs
from frbench.engine.returned import one_number, untouched
from frbench.errors import InputError
from frbench.names import unknown

Branch = Literal["clean", "adversarial"]
_NAME = "[a-z][a-z0-9_]*"
"""What can stand between the plus signs of a composition and before the dot of a key."""


class Part(BaseModel):
    """A piece of a recipe: typed, validated hyperparameters and the code that uses them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Objective(Part, ABC):
    """The loss to descend."""

    branches: ClassVar[tuple[Branch, ...]]
    """Train-mode forward passes that the loss uses; each costs three forward units a step."""

    @abstractmethod
    def loss(self, outputs: Outputs) -> Tensor:
        """Scalar loss of one batch, from the logits in `outputs`."""


class Mechanism(Part):
    """A part that rides along with any objective. `kind` is its name in a composition."""

    kind: ClassVar[str]

    start_epoch: Annotated[int, Field(ge=0, description="first epoch (from 0) it is active")] = 0

    def active(self, epoch: int) -> bool:
        """Whether it has started by `epoch` (from 0)."""
        return epoch >= self.start_epoch


class Regularizer(Mechanism, ABC):
    """Adds a penalty to the loss."""

    branches: ClassVar[tuple[Branch, ...]]

    @abstractmethod
    def penalty(self, outputs: Outputs) -> Tensor:
        """Scalar to add to the objective's loss."""


class WeightAverage(Mechanism, ABC):
    """Averages weights beside the training and never changes its trajectory.

    The state is a flat dictionary of tensors, saved with the checkpoint: the averaged parameters
    and buffers under their own names, and `count`, the number of updates.
    """

    @abstractmethod
    def after_step(self, state: dict[str, Tensor], model: nn.Module) -> None:
        """Called after every optimizer step from `start_epoch` on; changes `state` in place."""

    @abstractmethod
    def after_epoch(
        self,
        state: dict[str, Tensor],
        model: nn.Module,
        epoch: int,
        images: Callable[[], Iterable[Tensor]],
    ) -> None:
        """Called after every epoch (from 0) from `start_epoch` on; changes `state` in place.

        `images()` goes once over the training images.
        """


class Recipe(BaseModel):
    """An adversarial-training defense, complete but for the frame (model, data, schedule)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="name of the file in defenses/ that brings the objective")
    objective: SerializeAsAny[Objective]
    attack: SerializeAsAny[InnerAttack] = InnerAttack()
    mechanisms: tuple[SerializeAsAny[Mechanism], ...] = ()
    original: dict[str, Any] = Field(
        default_factory=dict,
        description="what the authors' own settings change in the common frame, as key: value",
    )
    original_for: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="the same, for one architecture only"
    )
    original_with: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="the same, where a mechanism of that kind rides along: its authors' settings",
    )

    @model_validator(mode="after")
    def _mechanisms_have_names(self) -> Self:
        for mechanism in self.mechanisms:
            kind = getattr(type(mechanism), "kind", None)
            if kind == "attack" or not (isinstance(kind, str) and re.fullmatch(_NAME, kind)):
                raise InputError(
                    f"{type(mechanism).__name__} needs a name of its own, in lower case: write "
                    f"`kind: ClassVar[str] = 'name'`, not {kind!r}"
                )
        return self

    @model_validator(mode="after")
    def _mechanisms_fit_together(self) -> Self:
        kinds = [m.kind for m in self.mechanisms]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise InputError(f"'{kind}' is there twice; a mechanism joins a recipe once")
        averages = [f"'{m.kind}'" for m in self.mechanisms if isinstance(m, WeightAverage)]
        if len(averages) > 1:
            raise InputError(
                f"{' and '.join(averages)} are two averages of the same weights and one run can "
                "report only one of them; drop either"
            )
        ordered = tuple(sorted(self.mechanisms, key=lambda m: m.kind))
        object.__setattr__(self, "mechanisms", ordered)  # order carries no meaning
        return self

    @model_validator(mode="after")
    def _branches_are_known(self) -> Self:
        for part in (self.objective, *self.regularizers):
            _check_branches(part)
        return self

    def __add__(self, mechanism: Mechanism) -> Recipe:
        """The same recipe with one more mechanism; raises InputError where it makes no sense."""
        return self.rebuilt(mechanisms=(*self.mechanisms, mechanism))

    def rebuilt(self, **changes: Any) -> Recipe:
        """A validated copy with some fields replaced."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return Recipe(**{**fields, **changes})

    def mechanism(self, kind: str) -> Mechanism | None:
        """The mechanism of that kind, if it rides along."""
        return next((m for m in self.mechanisms if m.kind == kind), None)

    def same_training(self, other: Recipe) -> bool:
        """Whether both are the same objective, attack and mechanisms, whatever they are called."""
        return self.described() == other.described()

    def described(self) -> dict[str, Any]:
        """All that decides the training, as JSON-like data."""
        return {
            "objective": {"kind": _kind(self.objective), **self.objective.model_dump(mode="json")},
            "attack": {"kind": _kind(self.attack), **self.attack.model_dump(mode="json")},
            "mechanisms": {
                m.kind: {**_outsider(m), **m.model_dump(mode="json")} for m in self.mechanisms
            },
        }

    @property
    def parts(self) -> dict[str, BaseModel]:
        """Objective, attack and mechanisms by what stands before their keys: '' or a name."""
        return {
            "": self.objective,
            "attack": self.attack,
            **{m.kind: m for m in self.mechanisms},
        }

    @property
    def regularizers(self) -> tuple[Regularizer, ...]:
        return tuple(m for m in self.mechanisms if isinstance(m, Regularizer))

    @property
    def average(self) -> WeightAverage | None:
        """The weight average that rides along, if any."""
        return next((m for m in self.mechanisms if isinstance(m, WeightAverage)), None)

    def active_regularizers(self, epoch: int) -> tuple[Regularizer, ...]:
        """Those that have started by `epoch` (from 0)."""
        return tuple(r for r in self.regularizers if r.active(epoch))

    def loss(self, outputs: Outputs, epoch: int) -> Tensor:
        """Objective plus the penalties active in `epoch`; a scalar in float32.

        Raises FrbenchError, naming the file, where a part returns anything but a scalar, or the
        objective one without a gradient, and where one changes the batch in place.
        """
        with _reading(self.objective, "loss", outputs):
            value = self.objective.loss(outputs)
        loss = one_number(self.objective, "loss", value, gradient=not _constant(outputs))
        for regularizer in self.active_regularizers(epoch):
            # A penalty may be a constant for some batches, such as those without any mistake.
            with _reading(regularizer, "penalty", outputs):
                penalty = regularizer.penalty(outputs)
            loss = loss + one_number(regularizer, "penalty", penalty, gradient=False)
        return loss

    def branches(self, epoch: int | None = None) -> tuple[Branch, ...]:
        """Distinct train-mode forwards of one loss; with every regularizer when `epoch` is None."""
        active = self.regularizers if epoch is None else self.active_regularizers(epoch)
        names = dict.fromkeys(self.objective.branches)
        for regularizer in active:
            names.update(dict.fromkeys(regularizer.branches))
        return tuple(names)

    def forward_units(self, epoch: int | None = None) -> int:
        """Declared cost of one step in forward units F an image.

        A forward pass is 1 F, the gradient to the input 1 F, to the weights 1 F more; so a trained
        branch costs 3 F, and a weight perturbation doubles the branches.
        """
        awp = self.mechanism("awp")
        perturbing = awp is not None and (epoch is None or awp.active(epoch))
        passes = 2 if perturbing else 1
        return self.attack.forward_units() + 3 * passes * len(self.branches(epoch))

    def batchnorm_forwards(self, epoch: int | None = None) -> int:
        """Declared forwards a step that update the model's BatchNorm statistics."""
        return self.attack.batchnorm_forwards() + len(self.branches(epoch))


def _kind(part: BaseModel) -> str:
    """Module and class: two files may call different losses by one class name."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _check_branches(part: Part) -> None:
    """Raise InputError for a misspelled branch, which would be declared and never forwarded."""
    where, known = f"{type(part).__name__}.branches", get_args(Branch)
    names = getattr(part, "branches", None)
    if not isinstance(names, tuple | list):
        raise InputError(f"{where} must be a tuple such as ('adversarial',), not {names!r}")
    for name in names:
        if name not in known:
            raise InputError(f"{where}: {unknown('branch', str(name), known)}")


def _reading(part: Part, method: str, outputs: Outputs) -> AbstractContextManager[None]:
    batch = {name: getattr(outputs, name) for name in ("images", "adversarial", "labels")}
    return untouched(part, method, **batch)


def _constant(outputs: Outputs) -> bool:
    """Whether logits that were read have no gradient to pass on, as where a value is worked out."""
    read = (t for name, t in vars(outputs).items() if name.endswith("_logits"))
    return any(not logits.requires_grad for logits in read)


def _outsider(mechanism: Mechanism) -> dict[str, str]:
    """The class of a mechanism from a recipe's own file, whose `kind` another may bear as well."""
    ours = type(mechanism).__module__.startswith("frbench.")
    return {} if ours else {"kind": _kind(mechanism)}
