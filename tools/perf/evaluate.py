"""Suite `eval`: our evaluation against plain calls of the attack libraries, verdict by verdict."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from frbench.attacks import AttackSpec, specs
from frbench.attacks.columns import autoattack
from frbench.data import Dataset, load_dataset, to_float
from frbench.evaluation import CellStore, Target, evaluate, resolve_target
from frbench.evaluation.cells import ROBUST
from frbench.evaluation.search import Search
from tools.perf.options import Options
from tools.perf.report import Figure, Result, Table, without_folder
from tools.perf.timing import Candidate
from tools.plain import plain_call

NATURAL = "natural"
ATTACKS = ("pgd20", "aa")
SEED = 0
_RESNET_IMAGES = 64
"""At most so many of ResNet-18 on a CPU, which attacks four a second; AutoAttack has them all."""


def run(options: Options) -> Result:
    """PGD-20 on the undefended ResNet-18; AutoAttack on a robust model, if there is one."""
    result = Result(
        "eval",
        settings={
            "images": options.images,
            "chunk": options.chunk,
            "repeats": options.repeats,
            "seed": SEED,
            "precision": "fp32 verdicts; plain and exact search in fp32 with TF32 off",
            "run": None if options.run is None else without_folder(options.run),
        },
    )
    if options.run is not None:
        resolve_target(options.run)  # a wrong one shall not be found after minutes of measuring
    columns = specs()
    most = options.images if options.device.cuda else min(options.images, _RESNET_IMAGES)
    if "pgd20" in options.attacks:
        _compare(result, options, NATURAL, columns["pgd20"], most)
    if "aa" not in options.attacks:
        return result
    if options.run is None:
        result.notes.append(
            "AutoAttack was not measured: give a robust model with --run RUN_FOLDER "
            "(on an undefended one it stops after its first stage)"
        )
    else:
        _compare(result, options, options.run, columns["aa"], options.images)
    return result


def _compare(result: Result, options: Options, name: str, spec: AttackSpec, most: int) -> None:
    where = options.device.device
    own, other = (resolve_target(name, device=where) for _ in range(2))
    other.model.requires_grad_(True)  # as a model is when nobody froze it
    data = load_dataset(own.record.dataset)
    n = min(most, len(data.test))
    library = spec.library
    verdicts: dict[str, str] = {}

    def candidate(key: str, call: Callable[..., str], target: Target) -> Candidate:
        def whole(_: int) -> None:
            verdicts[key] = call(target, spec, data, options, n)

        short = autoattack(stages=("apgd-ce",)) if spec.is_autoattack else spec
        return Candidate(
            key, whole, lambda: call(target, short, data, options, min(options.chunk, n))
        )

    ours = [candidate(search, partial(_ours, search=search), own) for search in options.searches]
    timings = options.timed([candidate(library, _plain, other), *ours], units=1)
    speedups = {key: timings[library].median / timing.median for key, timing in timings.items()}
    rows = [
        {
            **timing.row(),
            "images_per_second": n / timing.median,
            "robust_accuracy": 100 * verdicts[key].count(ROBUST) / n,
            "identical_verdicts": f"{_same(verdicts[key], verdicts[library])}/{n}",
            "speedup": speedups[key],
        }
        for key, timing in timings.items()
    ]
    title = f"{spec.label} on {own.record.name} ({own.record.architecture}), {n} images"
    note = "seconds a whole evaluation; robust accuracy in %; the rest against the plain library"
    result.tables.append(Table(title, rows, note))
    result.figures += _figures(title, spec, verdicts, speedups, options)


def _same(one: str, other: str) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def _figures(
    title: str,
    spec: AttackSpec,
    verdicts: dict[str, str],
    speedups: dict[str, float],
    options: Options,
) -> list[Figure]:
    """What is promised of this attack and of the measured searches on this kind of device."""
    plain, cuda = verdicts[spec.library], options.device.cuda
    n = len(plain)
    figures = []
    if "exact" in verdicts:
        figures.append(
            Figure(  # kernels of CUDA may differ in the last bit from call to call
                f"{title}: exact search, share of identical verdicts",
                0.995 if cuda else 1.0,
                _same(verdicts["exact"], plain) / n,
            )
        )
    if "fast" not in verdicts:
        return figures
    fast = verdicts["fast"]
    speedup = {True: (3.0 if cuda else 1.5), False: (None if cuda else 1.3)}[spec.is_autoattack]
    if speedup is not None:
        what = f"{title}: fast search, times plain {spec.library}"
        figures.append(Figure(what, speedup, speedups["fast"]))
    identical = f"{title}: fast search, share of identical verdicts"
    wanted = 0.995 if spec.is_autoattack else 1.0
    figures.append(Figure(identical, wanted, _same(fast, plain) / n))
    if spec.is_autoattack:
        apart = f"{title}: fast search, points of robust accuracy apart"
        points = 100 * abs(fast.count(ROBUST) - plain.count(ROBUST)) / n
        figures.append(Figure(apart, 0.05 if cuda else 0.0, points, at_least=False))
    return figures


def _ours(
    target: Target, spec: AttackSpec, data: Dataset, options: Options, n: int, *, search: Search
) -> str:
    """Verdicts of a whole evaluation from an empty store."""
    with tempfile.TemporaryDirectory(prefix="frbench-perf-") as folder:
        (cell,) = evaluate(
            target,
            [spec],
            data,
            store=CellStore(Path(folder)),
            device=options.device.device,
            n=n,
            batch=options.chunk,
            seed=SEED,
            search=search,
        )
    return cell.final_verdicts()


def _plain(target: Target, spec: AttackSpec, data: Dataset, options: Options, n: int) -> str:
    """Verdicts of the library alone, called as its documentation shows."""
    where = options.device.device
    images, labels = to_float(data.test.images[:n]).to(where), data.test.labels[:n].to(where)
    with _float32():
        right = plain_call(target.model, spec, images, labels, batch=options.chunk, seed=SEED)
    return "".join(str(int(robust)) for robust in right.tolist())


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """TF32 off, which torch leaves on for convolutions; AutoAttack's log lines off."""
    logger = logging.getLogger("auto-attack")
    saved = torch.backends.cudnn.allow_tf32, logger.level
    torch.backends.cudnn.allow_tf32 = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = saved[0]
        logger.setLevel(saved[1])
