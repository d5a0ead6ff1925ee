"""The conformance suite: what every recipe promises the engine, checked on a tiny model and digits.

Cost is counted in forward units F: the floating-point operations of convolutions and linear layers
in one forward pass. The gradient to a layer's input costs 1 F, the gradient to its weights 1 F. A
network's first layer has no input gradient to compute while weights are trained; so that units come
out whole, the counted network begins with a trainable scale, which gives the first layer one.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frbench.data import Dataset, load_dataset, to_float
from frbench.discovery import line_of, shown
from frbench.engine.device import Device, find_device
from frbench.engine.inner import InnerAttack, attacking
from frbench.engine.mechanisms.averages import reestimate_batchnorm
from frbench.engine.outputs import Outputs
from frbench.engine.plan import Plan, check_original, resolve
from frbench.engine.recipe import Recipe
from frbench.engine.registry import Defense, parse_defense
from frbench.engine.run import RunFolder
from frbench.engine.step import TrainingStep
from frbench.engine.trainer import Diverged, Trainer
from frbench.errors import FrbenchError, InputError, class_and_text
from frbench.models import Normalized, build_model

IMAGES = 24
"""In the batch that steps are checked on."""
TRAINED = 320
"""In the training set of the runs that are compared."""
STEPS = 10
"""Attack steps at which costs are stated."""
CLIMBED = {"ce": "cross-entropy", "kl": "divergence from the clean prediction"}
"""What `maximize` says of the attacks whose quantity can be computed without their help."""
LR = 0.05
CERTAIN_LOGIT = 50.0
"""The largest logit of predictions as certain as easy images make them: float32 rounds a softmax to
1, but not yet to 0, where TRADES' own formula has no gradient."""
CERTAIN, TIED = " where predictions are certain", " where all classes have the same logit"
ROUNDING = 1e-6
LAST = 1_000_000
"""An epoch in which every mechanism has started."""


@dataclass(frozen=True)
class CheckResult:
    """One promise: whether it was kept, and what was seen instead if not, else nothing."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Cost:
    """Forward units of one training step at ten attack steps."""

    defense: str
    declared: int
    counted: float
    minimum: int


class Scale(nn.Module):
    """A trainable factor a channel, without a convolution: it makes the next layer a later one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Called `weight` and of four dimensions, so that AWP asks for its gradient as well.
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """`images` times the factor, same shape."""
        scaled: Tensor = images * self.weight
        return scaled


class Bench:
    """One recipe on a tiny model with a fixed batch of digits; every check starts from the same."""

    def __init__(self, defense: Defense, data: Dataset) -> None:
        self.defense, self.data = defense, data
        self.device = find_device("cpu", "fp32")
        self.plan = resolve(defense.name, preset="smoke", overrides=_short(defense.recipe))
        self.recipe, self.frame = self.plan.recipe, self.plan.frame
        self.images = to_float(data.train.images[:IMAGES], memory_format=torch.channels_last)
        self.labels = data.train.labels[:IMAGES]

    def model(self) -> Normalized:
        """The same fresh weights at every call, in train mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            channels = self.images.shape[1]
            tiny = build_model("tiny", classes=len(self.data.classes), channels=channels).net
            network = nn.Sequential(Scale(channels), tiny)
        return Normalized(network, None).train()

    def step(self, recipe: Recipe | None = None) -> TrainingStep:
        """A training step around a fresh model."""
        return TrainingStep(self.model(), recipe or self.recipe, self.frame, self.device)

    def noise(self, seed: int = 0) -> Tensor:
        """A random start for the batch."""
        generator = torch.Generator().manual_seed(seed)
        return self.recipe.attack.initial_noise(self.images, generator)

    def train(self, step: TrainingStep, seeds: Iterable[int] = (0,)) -> Tensor:
        """One step a seed; returns the last loss."""
        loss = torch.tensor(float("nan"))
        for seed in seeds:
            loss = step(self.images, self.labels, self.noise(seed), epoch=LAST, lr=LR)
        return loss


Check = Callable[[Bench], str | None]
"""Returns None when the promise is kept, else what was seen instead."""


def check_recipe(defense: Defense, names: Iterable[str] | None = None) -> list[CheckResult]:
    """Check one recipe, in seconds on one core.

    A check that raises has failed; its detail names the file and line that raised, or is the one
    line of a `FrbenchError`.

    Args:
        defense: found by `parse_defense`.
        names: keys of `CHECKS`; None for every check.
    """
    bench = Bench(defense, _few_digits())
    return [_run(name, CHECKS[name], bench) for name in (CHECKS if names is None else names)]


def _run(name: str, check: Check, bench: Bench) -> CheckResult:
    try:
        problem = check(bench)
    except FrbenchError as error:  # says itself what is wrong, and where
        problem = " ".join(str(error).split())
    except Exception as error:  # a user's loss may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        own = _own_frame(error, bench.defense) or (frame.filename, frame.lineno)
        problem = f"{shown(own[0])}:{own[1]}: {class_and_text(error)}"
    return CheckResult(name, problem is None, problem or "")


def _own_frame(error: Exception, defense: Defense) -> tuple[str, int | None] | None:
    """The innermost frame in the recipe's own file, where the mistake most likely is."""
    own = inspect.getsourcefile(type(defense.recipe.objective))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    return (frames[-1].filename, frames[-1].lineno) if frames else None


def where(recipe: Recipe) -> str:
    """File and line of the objective, `defenses/trades.py:25`."""
    return line_of(type(recipe.objective))


def _attacker(bench: Bench) -> str:
    """File and line of the inner attack, as the subject of a sentence."""
    return f"{line_of(type(bench.recipe.attack))}: the attack"


def _short(recipe: Recipe) -> dict[str, str]:
    """Three epochs, judged once, with every mechanism on from the second."""
    started = {f"{m.kind}.start_epoch": "1" for m in recipe.mechanisms}
    return {"epochs": "3", "validation_every": "3", "validation_images": "32", **started}


def _few_digits() -> Dataset:
    """Enough images for some steps an epoch, few enough for a second of training."""
    data = load_dataset("digits")
    return Dataset(data.name, data.train.first(TRAINED), data.test, data.classes)


# --- the settings ---------------------------------------------------------------------------------


def _original_can_be_used(bench: Bench) -> str | None:
    """The common protocol never reads these settings, so that a typo would stay unseen."""
    recipe = bench.defense.recipe
    try:
        check_original(recipe)
    except InputError as error:
        path = bench.defense.path or inspect.getfile(type(recipe.objective))
        return f"{shown(path)}: {error}"
    return None


# --- the inner attack -----------------------------------------------------------------------------


def _stays_in_the_ball(bench: Bench) -> str | None:
    adversarial = bench.step().attack(bench.images, bench.labels, bench.noise())
    eps = bench.recipe.attack.eps
    moved = (adversarial - bench.images).abs().max().item()
    low, high = adversarial.min().item(), adversarial.max().item()
    if not moved <= eps + ROUNDING:
        return (
            f"{_attacker(bench)} moved a pixel by {moved:.5f}, eps is {eps:.5f}; clip to the ball "
            "in `perturb`"
        )
    if not (low >= 0 and high <= 1):
        return (
            f"{_attacker(bench)} gave pixels in [{low:.4f}, {high:.4f}], not in [0, 1]; clip to "
            "the box in `perturb`"
        )
    return None


def _leaves_no_gradient(bench: Bench) -> str | None:
    model, who = bench.model(), _attacker(bench)
    bench.recipe.attack.perturb(model, bench.images, bench.labels, bench.noise())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            return f"{who} left a gradient on {name}; use torch.autograd.grad on the images"
        if not parameter.requires_grad:
            return f"{who} left {name} frozen; see `attacking` in frbench/engine/inner.py"
    return None if model.training else f"{who} left the model in eval mode"


def _moves_no_statistic(bench: Bench) -> str | None:
    model, who = bench.model(), _attacker(bench)
    before = [b.clone() for b in model.buffers()]
    bench.recipe.attack.perturb(model, bench.images, bench.labels, bench.noise())
    counted, declared = _updates(model), bench.recipe.attack.batchnorm_forwards()
    if counted != declared:
        return f"{who} moved BatchNorm statistics {counted} times, declares {declared}"
    same = all(torch.equal(b, old) for b, old in zip(model.buffers(), before, strict=True))
    return None if same or declared else f"{who} changed a buffer of the model"


def _same_images_for_same_seed(bench: Bench) -> str | None:
    attack, who = bench.step().attack, _attacker(bench)
    first, again = (attack(bench.images, bench.labels, bench.noise(0)) for _ in range(2))
    other = attack(bench.images, bench.labels, bench.noise(1))
    if not torch.equal(first, again):
        return f"{who} draws random numbers of its own; draw them in `initial_noise`"
    return f"{who} ignores its random start" if torch.equal(first, other) else None


def _follows_its_gradient(bench: Bench) -> str | None:
    """A gradient that is zero or NaN has no sign, so that only the random start would be left."""
    noise, eps = bench.noise(), bench.recipe.attack.eps
    adversarial = bench.step().attack(bench.images, bench.labels, noise)
    low, high = (bench.images - eps).clamp(min=0), (bench.images + eps).clamp(max=1)
    moved = (adversarial - (bench.images + noise).clamp(low, high)).abs().max().item()
    if moved > ROUNDING:
        return _climbs(bench) if bench.recipe.attack.maximize in CLIMBED else None
    return (
        f"{_attacker(bench)} stays at its random start: the gradient that it climbs is zero or NaN"
    )


def _climbs(bench: Bench) -> str | None:
    """What the attack says that it maximizes must be higher at its result than at its start.

    The start is uniform and the steps are small, because near the clean images, where the
    divergence is least, a large step raises it in whichever direction.
    """
    attack, model = bench.recipe.attack, bench.model()
    reestimate_batchnorm(model, [bench.images])  # by fresh ones, logits hardly differ in eval mode
    plain = InnerAttack(eps=attack.eps, maximize=attack.maximize)
    noise = plain.initial_noise(bench.images, torch.Generator().manual_seed(0))
    slow = attack.model_copy(update={"steps": STEPS, "step_size": attack.eps / STEPS})
    end = slow.perturb(model, bench.images, bench.labels, noise)
    model.double()  # in float32 a divergence this small drowns in rounding
    with attacking(model, attack.batchnorm), torch.no_grad():
        target = None if attack.maximize == "ce" else model(bench.images.double()).softmax(dim=1)
        before, after = (
            plain.ascended(model(images.double()), bench.labels, target).item()
            for images in ((bench.images + noise).clamp(0, 1), end)
        )
    if after > before:
        return None
    return (
        f"{_attacker(bench)} says maximize='{attack.maximize}', but the "
        f"{CLIMBED[attack.maximize]} goes from {before:.4g} at the start to {after:.4g}; check "
        "the sign, or give `maximize` a value of its own"
    )


# --- the loss -------------------------------------------------------------------------------------


def _is_finite(bench: Bench) -> str | None:
    """At the start of training, and where predictions are certain or all classes tie."""
    largest = bench.model()(bench.images).abs().max().item()
    factors = {"": 1.0, CERTAIN: CERTAIN_LOGIT / largest, TIED: 0.0}
    for when, factor in factors.items():
        step = bench.step()
        _scale_logits(step.model, factor)
        problem = _not_finite(step, bench.train(step))
        if problem is not None:
            advice = "keep logarithms, roots and divisions away from 0"
            return f"{where(bench.recipe)}: {problem}{when}; {advice}"
    return None


@torch.no_grad()
def _scale_logits(model: nn.Module, factor: float) -> None:
    """Scale the last layer, so that the attack and every branch see the same network."""
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    for parameter in head.parameters():
        parameter.mul_(factor)


def _not_finite(step: TrainingStep, loss: Tensor) -> str | None:
    """What is not finite after one step."""
    if not torch.isfinite(loss):
        return f"the loss is {loss.item()}"
    bad = [name for name, m in step.momentum.items() if not torch.isfinite(m).all()]
    return f"the gradient of {bad[0]} is not finite" if bad else None


def _uses_the_labels(bench: Bench) -> str | None:
    """Other labels for the same images must give another step."""
    states = []
    for labels in (bench.labels, (bench.labels + 1) % len(bench.data.classes)):
        step = bench.step()
        step(bench.images, labels, bench.noise(), epoch=LAST, lr=LR)
        states.append(_state(step))
    if _equal(*states):
        return f"{where(bench.recipe)}: the step does not depend on the labels"
    return None


# --- the step -------------------------------------------------------------------------------------


def _declares_its_batchnorm(bench: Bench) -> str | None:
    step = bench.step()
    bench.train(step)
    extra = len(bench.frame.statistics_before) + len(bench.frame.statistics_after)
    counted, declared = _updates(step.model), bench.recipe.batchnorm_forwards(LAST) + extra
    if counted == declared:
        return None
    return (
        f"{where(bench.recipe)}: {counted} train-mode forwards a step, declares {declared}; "
        "`branches` must name what the loss reads"
    )


def _declares_its_cost(bench: Bench) -> str | None:
    """The attack first: what it costs too much is not the fault of the loss."""
    attack = _misdeclared(
        attack_units(bench),
        f"{_attacker(bench)} alone",
        "`forward_units` must tell what `perturb` computes",
    )
    return attack or _misdeclared(
        forward_units(bench),
        f"{where(bench.recipe)}:",
        "`branches` must name what the loss reads",
    )


def _misdeclared(cost: Cost, whose: str, mend: str) -> str | None:
    if abs(cost.counted - cost.declared) > 0.01:
        return (
            f"{whose} declares {cost.declared} forward units at {STEPS} attack steps, counted "
            f"{cost.counted:.2f}; {mend}"
        )
    if cost.counted > cost.minimum + 0.01:
        return (
            f"{whose} counted {cost.counted:.2f} forward units, its mathematics needs "
            f"{cost.minimum}; compute nothing whose gradient is not used"
        )
    return None


def _repeats_bit_for_bit(bench: Bench) -> str | None:
    steps = [bench.step(), bench.step()]
    for step in steps:
        bench.train(step, seeds=(0, 1))
    # Weights that a NaN reached are equal too: another check tells of it, and no draw is to blame.
    same = _equal(*({n: t.nan_to_num() for n, t in _state(step).items()} for step in steps))
    return None if same else f"{where(bench.recipe)}: two steps from one seed gave other weights"


def _resumes_bit_for_bit(bench: Bench) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            straight = _trained(bench, Path(folder) / "straight", stops=())
        except Diverged as error:  # of what it advises, nothing helps a run of three epochs
            return f"{where(bench.recipe)}: {str(error).partition('; ')[0]}"
        resumed = _trained(bench, Path(folder) / "resumed", stops=(0, 1))
    differing = [n for n in straight if not torch.equal(straight[n], resumed[n])]
    if not differing:
        return None
    return f"{where(bench.recipe)}: a resumed run differs in {differing[0]}"


CHECKS: dict[str, Check] = {
    "the authors' own settings can be used": _original_can_be_used,
    "attack stays in the eps ball and in [0, 1]": _stays_in_the_ball,
    "attack leaves no gradient on parameters": _leaves_no_gradient,
    "attack moves BatchNorm as declared": _moves_no_statistic,
    "attack follows from its random start": _same_images_for_same_seed,
    "attack follows its gradient": _follows_its_gradient,
    "loss and gradients are finite": _is_finite,
    "step uses the labels": _uses_the_labels,
    "BatchNorm forwards as declared": _declares_its_batchnorm,
    "cost as declared, and no higher than needed": _declares_its_cost,
    "two steps with one seed are bit-equal": _repeats_bit_for_bit,
    "a resumed run equals an uninterrupted one": _resumes_bit_for_bit,
}


# --- counting -------------------------------------------------------------------------------------


def forward_units(bench: Bench) -> Cost:
    """Declared, counted and least possible forward units of one step at ten attack steps."""
    recipe = _ten_steps(bench)
    step = bench.step(recipe)
    total = _flops(lambda: bench.train(step)) / _one_forward(bench)
    return Cost(bench.defense.name, recipe.forward_units(LAST), total, minimum_units(bench, recipe))


def attack_units(bench: Bench) -> Cost:
    """The same of the inner attack alone."""
    attack, model = _ten_steps(bench).attack, bench.model()
    total = _flops(lambda: attack.perturb(model, bench.images, bench.labels, bench.noise()))
    return Cost(
        bench.defense.name,
        attack.forward_units(),
        total / _one_forward(bench),
        _least_of_attack(attack),
    )


def _ten_steps(bench: Bench) -> Recipe:
    attack = bench.recipe.attack.model_copy(update={"steps": STEPS})
    return bench.recipe.rebuilt(attack=attack)


def _one_forward(bench: Bench) -> int:
    """Operations of one forward unit."""
    model = bench.model().eval()
    with torch.no_grad():
        return _flops(lambda: model(bench.images))


def _least_of_attack(attack: InnerAttack) -> int:
    return 2 * attack.steps + (attack.maximize != "ce")


def minimum_units(bench: Bench, recipe: Recipe) -> int:
    """What the mathematics of a recipe needs, whatever it declares.

    Each attack step needs a forward and an input gradient, and one forward more when the clean
    prediction is the target. Each branch of the loss that carries gradient needs 3 F, one that is
    only read 1 F; AWP needs the gradient twice.
    """
    generator = torch.Generator().manual_seed(0)
    shape = IMAGES, len(bench.data.classes)
    clean, adversarial = (
        torch.randn(shape, generator=generator, requires_grad=True) for _ in range(2)
    )
    outputs = Outputs.of_logits(clean, adversarial, bench.labels)
    loss = recipe.loss(outputs, LAST)
    grads = torch.autograd.grad(loss, [clean, adversarial], allow_unused=True)
    units = _least_of_attack(recipe.attack)
    passes = 2 if recipe.mechanism("awp") is not None else 1
    for name, gradient in zip(("clean_logits", "adversarial_logits"), grads, strict=True):
        if gradient is not None:
            units += 3 * passes
        elif name in outputs.__dict__:
            units += passes
    return units


def forward_units_table(names: Iterable[str]) -> list[Cost]:
    """Costs of the named recipes."""
    data = _few_digits()
    return [forward_units(Bench(parse_defense(name), data)) for name in names]


class _WholeOnly(contextlib.AbstractContextManager["_WholeOnly"]):
    """In place of the counter's tracker of modules, whose hooks forbid `torch.autograd.grad`."""

    parents = frozenset({"Global"})

    def __exit__(self, *error: object) -> None:
        """Nothing to undo."""


def _flops(run: Callable[[], Any]) -> int:
    """Operations of convolutions and linear layers while `run` runs."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _WholeOnly()  # type: ignore[assignment]
    with counter:
        run()
    return counter.get_total_flops()


def _updates(model: nn.Module) -> int:
    """How many train-mode forwards the first BatchNorm layer has seen."""
    return int(next(b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")))


def _state(step: TrainingStep) -> dict[str, Tensor]:
    return {**step.model.state_dict(), **{f"momentum.{n}": m for n, m in step.momentum.items()}}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


class _KillError(Exception):
    """A kill at the end of an epoch."""


class _Killer:
    """A watcher that stops the training after one epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def step(self, done: int, total: int) -> None:
        """Nothing: steps are let through."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Stop once `epoch` is done."""
        if metrics["epoch"] == self._epoch:
            raise _KillError


def _trained(bench: Bench, folder: Path, stops: Iterable[int]) -> dict[str, Tensor]:
    """Everything that a run's checkpoint holds, after kills at the ends of the epochs `stops`."""
    for stop in stops:
        try:
            _trainer(bench.plan, bench.data, bench.device, folder).run(_Killer(stop))
        except _KillError:
            continue
    run = _trainer(bench.plan, bench.data, bench.device, folder).run()
    saved = run.load_checkpoint()
    assert saved is not None
    return saved[0]


def _trainer(plan: Plan, data: Dataset, device: Device, folder: Path) -> Trainer:
    """Of a run that says nothing: where it goes on would tell a reader of these checks nothing."""
    return Trainer(plan, data, device, RunFolder(folder), notice=lambda line: None)
