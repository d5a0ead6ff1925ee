"""The columns of the matrix and the names by which users ask for them.

Settings: PGD-20 and C&W as in the frequency-regularization paper's evaluation (step 2/255 at eps
8/255, one random start, last iterate; C&W is 30 steps on the margin loss); FGSM takes the whole
eps in one step; AutoAttack is the standard version (Croce and Hein 2020).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction

from frbench.attacks.spec import AA_STAGES, AttackSpec, Norm
from frbench.errors import InputError
from frbench.names import lookup, unknown

DEFAULT_EPS: dict[str, float] = {"Linf": 8 / 255, "L2": 0.5}
# In L-infinity, 1 reaches every image; in L2 nothing beyond 10 has been used on [0, 1] images.
_LARGEST_EPS: dict[str, float] = {"Linf": 1.0, "L2": 10.0}
_LINF_ONLY = ("fgsm", "cw")
_PGD_NAME = re.compile(r"pgd([1-9][0-9]*)")
_CW_STEPS = 30


def specs(norm: Norm = "Linf", eps: float | None = None) -> dict[str, AttackSpec]:
    """The standard columns of a norm, in the order of a table.

    Args:
        norm: `Linf` (clean, fgsm, pgd20, cw, aa) or `L2` (clean, pgd20, aa; the other two are
            L-infinity attacks).
        eps: radius in [0, 1] pixel units; by default 8/255 for Linf and 0.5 for L2.

    Raises:
        InputError: unknown norm, or a radius that is not positive or too large.
    """
    radius = check_eps(norm, lookup("norm", norm, DEFAULT_EPS) if eps is None else eps)
    clean = AttackSpec(name="clean", library="none", eps=0.0, stages=("clean",))
    columns = [clean, pgd(20, norm, radius), autoattack(norm, radius)]
    if norm == "Linf":
        fgsm = AttackSpec(
            name="fgsm", library="torchattacks", eps=radius, steps=1, stages=("fgsm",)
        )
        cw = AttackSpec(
            name="cw",
            library="frbench",
            eps=radius,
            steps=_CW_STEPS,
            step_size=radius / 4,
            random_start=True,
            stages=("cw",),
        )
        columns = [clean, fgsm, pgd(20, norm, radius), cw, autoattack(norm, radius)]
    return {column.name: column for column in columns}


def pgd(steps: int, norm: Norm = "Linf", eps: float = 8 / 255) -> AttackSpec:
    """PGD on cross-entropy with one random start, last iterate.

    The step is eps/4 in Linf (2/255 at 8/255) and 2.5 eps/steps in L2, the usual choices.
    """
    return AttackSpec(
        name=f"pgd{steps}",
        library="torchattacks",
        norm=norm,
        eps=eps,
        steps=steps,
        step_size=eps / 4 if norm == "Linf" else 2.5 * eps / steps,
        random_start=True,
        stages=(f"pgd{steps}",),
    )


def autoattack(
    norm: Norm = "Linf", eps: float = 8 / 255, stages: Iterable[str] = AA_STAGES
) -> AttackSpec:
    """AutoAttack's standard version, or only some of its stages under a name that says so.

    Args:
        norm: `Linf` or `L2`.
        eps: radius in [0, 1] pixel units.
        stages: any of apgd-ce, apgd-t, fab-t, square; they always run in that order.
    """
    wanted = list(stages)
    for stage in wanted:
        if stage not in AA_STAGES:
            raise unknown("AutoAttack stage", stage, AA_STAGES)
    chosen = tuple(stage for stage in AA_STAGES if stage in wanted)
    if not chosen:
        raise InputError(f"no AutoAttack stage given: choose from {', '.join(AA_STAGES)}")
    name = "aa" if chosen == AA_STAGES else f"aa-{'+'.join(chosen)}"
    return AttackSpec(name=name, library="pyautoattack", norm=norm, eps=eps, stages=chosen)


def parse_attacks(
    text: str, *, norm: Norm = "Linf", eps: float | None = None, stages: str | None = None
) -> list[AttackSpec]:
    """The columns that a user named, in the user's order, each once.

    Args:
        text: names joined by commas, such as `fgsm,pgd20,cw,aa`; `pgdN` works for every N.
        norm: `Linf` or `L2`.
        eps: radius in [0, 1] pixel units; None for the norm's usual one.
        stages: stages of AutoAttack joined by commas, when not all four are wanted.

    Raises:
        InputError: an unknown name (with the nearest known one), one without such a norm, or a
            norm or radius for clean images alone.
    """
    table = specs(norm, eps)
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError(f"no attack given: choose from {', '.join(table)}")
    if names == ["clean"] and (norm, eps) != ("Linf", None):
        raise InputError("clean images have no norm and no eps: leave both out, or name an attack")
    if stages is not None:
        if "aa" not in names:
            raise InputError("stages belong to the attack 'aa', which was not asked for")
        parts = [part.strip().lower() for part in stages.split(",") if part.strip()]
        table["aa"] = autoattack(norm, table["aa"].eps, parts)
    return [_column(name, norm, table) for name in names]


def parse_eps(text: str) -> float:
    """A radius as people write it, `8/255` or `0.5`, as a number; InputError if it is neither."""
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"eps '{text}' is not a number: write it as 8/255 or 0.5") from None


def check_eps(norm: str, eps: float) -> float:
    """`eps` itself, if it can be the radius of a ball in [0, 1] pixel units."""
    largest = lookup("norm", norm, _LARGEST_EPS)
    if not (math.isfinite(eps) and 0 < eps <= largest):
        raise InputError(
            f"eps {eps:g} is not in (0, {largest:g}]: give it for images in [0, 1], such as 8/255"
        )
    return eps


def _column(name: str, norm: Norm, table: dict[str, AttackSpec]) -> AttackSpec:
    match = _PGD_NAME.fullmatch(name)
    if match:
        return pgd(int(match[1]), norm, table["pgd20"].eps)
    if norm == "L2" and name in _LINF_ONLY:
        raise InputError(f"attack '{name}' is an L-infinity attack: use pgd20 or aa with L2")
    return lookup("attack", name, table)
