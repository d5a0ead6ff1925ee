"""Can the model be broken by attacks that do not see its gradients?"""

from __future__ import annotations

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from frbench.audit.ascent import Ascent
from frbench.audit.checks.gradients import nothing_left, white_box_number
from frbench.audit.findings import Finding, Verdict, beaten, worst
from frbench.audit.subject import Subject

# A short run of AutoAttack's 5,000: it breaks most of what an undefended model has, while honest
# white-box attacks are still far ahead.
QUERIES = 300
_TRANSFER_STEPS = 10


def square(subject: Subject) -> Finding:
    """Square, which sees only logits, must not beat the white-box attack.

    pyautoattack's Square with 300 queries against `Subject.white_box`; see `beaten`.
    """
    if not subject.white_box().any():
        return nothing_left("square")

    def perturb(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = SquareAttack(
            model,
            norm="Linf",
            n_queries=QUERIES,
            eps=subject.eps,
            seed=subject.seed,
            device=images.device,
        )
        with torch.no_grad():
            adversarial: Tensor = attack.perturb(images, labels)
        return adversarial

    survivors = subject.survivors(perturb)
    verdict, only = beaten(survivors, subject.white_box(), len(subject.sample))
    return Finding(
        name="square",
        verdict=verdict,
        reason=f"{QUERIES} queries without gradients break {only} images that PGD leaves",
        numbers={"square": subject.share(survivors), **white_box_number(subject), "only": only},
    )


def transfer(subject: Subject) -> Finding:
    """Images made adversarial on another model must not beat the white-box attack.

    PGD-10 on each of the other models against `Subject.white_box`; see `beaten`.
    """
    if not subject.sources:
        return Finding(
            name="transfer", verdict="trusted", reason="not measured: no other model of these data"
        )
    if not subject.white_box().any():
        return nothing_left("transfer")
    numbers: dict[str, float | int | str | list[float]] = dict(white_box_number(subject))
    verdicts: list[Verdict] = []
    broken_only: dict[str, int] = {}
    attack = Ascent(subject.eps, steps=_TRANSFER_STEPS)
    for name, source in subject.sources.items():
        survivors = subject.survivors(attack.last, model=source)
        verdict, broken_only[name] = beaten(survivors, subject.white_box(), len(subject.sample))
        verdicts.append(verdict)
        numbers[f"from {name}"] = subject.share(survivors)
    strongest = max(broken_only, key=broken_only.__getitem__)
    return Finding(
        name="transfer",
        verdict=worst(verdicts),
        reason=f"images from {strongest} break {broken_only[strongest]} images that PGD leaves",
        numbers=numbers,
    )
