"""Compare our verdicts with plain calls of the attack libraries, image by image, on real data.

python -m tools.parity [TARGET] [--attacks fgsm,pgd20,aa] [--n 64] [--batch 32] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from frbench.attacks import parse_attacks
from frbench.data import load_dataset, to_float
from frbench.errors import FrbenchError
from frbench.evaluation import CellStore, evaluate, resolve_target
from frbench.evaluation.cells import ROBUST
from frbench.evaluation.numerics import full_precision
from tools.plain import plain_call


def main() -> int:
    """Print one line an attack; 0 when every image agrees, 1 when not, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", nargs="?", default="natural")
    parser.add_argument("--attacks", default="fgsm,pgd20,aa")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    try:
        return compare(parser.parse_args())
    except FrbenchError as error:
        print(f"parity: {error}", file=sys.stderr)
        return error.exit_code


def compare(options: argparse.Namespace) -> int:
    """Attack the target twice with each attack, through us and through the library alone."""
    device = torch.device(options.device)
    target = resolve_target(options.target, device=device)
    dataset = load_dataset(target.record.dataset)
    images = to_float(dataset.test.images[: options.n]).to(device)
    labels = dataset.test.labels[: options.n].to(device)
    how = {"batch": options.batch, "seed": options.seed}
    different = 0
    for spec in parse_attacks(options.attacks):
        with full_precision(device):
            plain = plain_call(target.model, spec, images, labels, **how).cpu()
        with tempfile.TemporaryDirectory() as folder:
            store, console = CellStore(Path(folder)), Console(stderr=True)
            (cell,) = evaluate(
                target,
                [spec],
                dataset,
                store=store,
                device=device,
                n=options.n,
                console=console,
                **how,
            )
        ours = torch.tensor([verdict == ROBUST for verdict in cell.final_verdicts()])
        identical = int((ours == plain).sum())
        different += options.n - identical
        print(
            f"{spec.label}: compared {options.n} images, identical verdicts {identical}, "
            f"robust {int(ours.sum())} ours and {int(plain.sum())} plain"
        )
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
