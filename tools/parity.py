"""Compare our verdicts with plain calls of the attack libraries, image by image, on real data.

    python tools/parity.py [TARGET] [--n 64] [--batch 32] [--seed 0] [--device cpu]

FGSM and PGD-20 are called from torchattacks after `torch.manual_seed(seed)` a batch, AutoAttack's
standard version through pyautoattack's own `run_standard_evaluation` with the same seed and batch
size. The exit code is 1 if any image differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import torchattacks
from pyautoattack import AutoAttack
from rich.console import Console
from torch import Tensor

from frbench.attacks import parse_attacks
from frbench.data import load_dataset, to_float
from frbench.evaluation import CellStore, Target, evaluate, resolve_target
from frbench.evaluation.cells import ROBUST
from frbench.evaluation.numerics import full_precision

EPS = 8 / 255


def main() -> int:
    """Print one line an attack; 0 when every image agrees."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", nargs="?", default="natural")
    parser.add_argument("--attacks", default="fgsm,pgd20,aa")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    target = resolve_target(options.target, device=device)
    dataset = load_dataset(target.record.dataset)
    with tempfile.TemporaryDirectory() as folder:
        cells = evaluate(
            target,
            parse_attacks(options.attacks),
            dataset,
            store=CellStore(Path(folder)),
            device=device,
            n=options.n,
            batch=options.batch,
            seed=options.seed,
            console=Console(stderr=True),
        )
    images = to_float(dataset.test.images[: options.n]).to(device)
    labels = dataset.test.labels[: options.n].to(device)
    same = 0
    for cell in cells:
        with full_precision(device):
            plain = plain_call(cell.attack.name, target, images, labels, options)
        ours = torch.tensor([verdict == ROBUST for verdict in cell.final_verdicts()])
        identical = int((ours == plain.cpu()).sum())
        same += identical
        print(
            f"{cell.attack.label}: compared {options.n} images, identical verdicts {identical}, "
            f"robust {int(ours.sum())} ours and {int(plain.sum())} plain"
        )
    return 0 if same == options.n * len(cells) else 1


def plain_call(
    name: str, target: Target, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> Tensor:
    """Which images (n, c, h, w) a plain library call leaves correctly classified: bool (n,)."""
    if name == "aa":
        suite = AutoAttack(target.model, device=images.device, eps=EPS, seed=options.seed)
        _, predicted = suite.run_standard_evaluation(images, labels, batch_size=options.batch)
        return torch.eq(predicted, labels)
    attacks = {
        "fgsm": torchattacks.FGSM(target.model, eps=EPS),
        "pgd20": torchattacks.PGD(target.model, eps=EPS, alpha=EPS / 4, steps=20),
    }
    batches = torch.split(images, options.batch), torch.split(labels, options.batch)
    right = []
    for x, y in zip(*batches, strict=True):
        torch.manual_seed(options.seed)
        adversarial = attacks[name](x, y)
        with torch.no_grad():
            right.append(target.model(adversarial).argmax(dim=1) == y)
    return torch.cat(right)


if __name__ == "__main__":
    sys.exit(main())
