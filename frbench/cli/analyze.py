"""`frbench analyze`: the frequency lens. Every command prints a table and writes files."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from frbench import storage
from frbench.cli.options import RESULTS, RUNS, DeviceName, Form, Format, RunsDir, Seed
from frbench.cli.outcome import plain_console
from frbench.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` does not need it
    from rich.table import Table

    from frbench.analysis.subjects import Subjects

TargetList = Annotated[
    list[str],
    typer.Argument(metavar="TARGET...", help="Run, natural, file:PATH, robustbench:ID, timm:NAME."),
]
OUT = RESULTS / "analysis"
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for JSON, CSV, SVG and PNG; those of its kind are replaced.",
        show_default=f"{OUT}/TARGETS",
    ),
]
_LONGEST_NAME = 100
# Images of a command where `--n` is not given; all there are where those are fewer.
_LOWPASS, _SPECTRUM, _FOURIER, _CLAIMS = 1000, 128, 256, 256


def _count(default: int, text: str, least: int) -> Any:
    """The option `--n` of a command with its own default."""
    return typer.Option(min=least, help=text, show_default=f"{default} or all if fewer")


def lowpass(
    targets: TargetList,
    n: Annotated[int | None, _count(_LOWPASS, "Test images, from the first on.", 1)] = None,
    bandwidths: Annotated[
        str | None, typer.Option(help="Even numbers; default: 32,28,24,20,16 for 32 x 32 images.")
    ] = None,
    kind: Annotated[
        Literal["lowpass", "highpass", "bandpass"], typer.Option(help="What passes the filter.")
    ] = "lowpass",
    attack: Annotated[bool, typer.Option(help="PGD-20 as well as clean images.")] = True,
    adaptive: Annotated[bool, typer.Option(help="Attack through the filter.")] = False,
    clamp: Annotated[bool, typer.Option(help="Clip filtered images to [0, 1].")] = False,
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """Accuracy through frequency filters (Table 1 of the paper).

    Examples:

        frbench analyze lowpass natural --n 1000 --no-attack

        frbench analyze lowpass natural at_fr_swa --adaptive
    """
    from frbench.analysis.lowpass import filter_study

    if adaptive and not attack:
        raise InputError("--adaptive is about the attack: leave --no-attack out")
    widths = None if bandwidths is None else _numbers("bandwidths", bandwidths, "32,24,16")
    out = _folder(out, targets)
    subjects = _prepare(targets, device, runs_dir, out)
    with _progress():
        study = filter_study(
            subjects.targets,
            subjects.images(n, _LOWPASS),
            bandwidths=widths,
            kind=kind,
            clamp=clamp,
            attacked=attack,
            adaptive=adaptive,
            seed=seed,
        )
    _finish(study, out, form)


def spectrum(
    targets: TargetList,
    n: Annotated[int | None, _count(_SPECTRUM, "Test images for the mean spectra.", 2)] = None,
    attacks: Annotated[str, typer.Option(help="Columns: fgsm, pgdN, cw, aa.")] = "fgsm,pgd20,cw",
    images: Annotated[str, typer.Option(help="Test images shown as in Figure 2.")] = "13,1",
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """Where in frequency perturbations lie (Figure 2), on average and for chosen images.

    Example:

        frbench analyze spectrum natural at_fr_swa --attacks pgd20,aa --images 13,1
    """
    from frbench.analysis.panels import spectrum_panels
    from frbench.analysis.spectrum import spectrum_study
    from frbench.attacks import parse_attacks, specs

    columns = [spec for spec in parse_attacks(attacks) if spec.name != "clean"]
    if not columns:
        raise InputError("the column 'clean' adds nothing: name an attack such as pgd20")
    chosen = _numbers("images", images, "13,1") or [0]
    out = _folder(out, targets)
    subjects = _prepare(targets, device, runs_dir, out)
    with _progress():
        spectrum_panels(
            subjects.targets,
            subjects.reaching(chosen),
            specs()["pgd20"],
            indices=chosen,
            classes=subjects.dataset.classes,
            seed=seed,
        ).save(out)
        study = spectrum_study(subjects.targets, subjects.images(n, _SPECTRUM), columns, seed=seed)
    _finish(study, out, form)


def kernels(
    targets: TargetList,
    shown: Annotated[int, typer.Option(min=1, help="Filters in the figure.")] = 16,
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """First-layer kernels and how smooth they are (Figure 1).

    Example:

        frbench analyze kernels natural at_fr --shown 32
    """
    from frbench.analysis.kernels import kernel_study

    out = _folder(out, targets)
    subjects = _prepare(targets, device, runs_dir, out)
    _finish(kernel_study(subjects.targets, shown=shown, seed=seed), out, form)


def curves(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, or defenses that have one.")
    ],
    cells: Annotated[
        Path | None,
        typer.Option(help="Results folder: draw the FR and SWA ablation from its cells too."),
    ] = None,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """Learning curves of runs, and the ablation of FR and SWA (Figure 3).

    A run trained with test_images=N gets a second panel for the test set.

    Example:

        frbench analyze curves pgd_at at_fr_swa --cells results/local
    """
    from frbench.analysis.curves import ablation, curve_study, run_path
    from frbench.analysis.output import check_writable
    from frbench.evaluation import CellStore

    out = _folder(out, runs)
    check_writable(out)
    study = curve_study([run_path(text, runs_dir) for text in runs])
    if cells is not None:
        ablation(CellStore(cells).all()).save(out)
    _finish(study, out, form)


def fourier(
    targets: TargetList,
    n: Annotated[int | None, _count(_FOURIER, "Test images.", 1)] = None,
    norm: Annotated[float, typer.Option(help="L2 norm added to each channel.")] = 4.0,
    step: Annotated[
        int, typer.Option(min=1, help="2: every second frequency, 4 times faster.")
    ] = 1,
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """Error under each single frequency: the Fourier heat map of Yin et al. 2019.

    The images are a random choice from the whole test set.

    Example:

        frbench analyze fourier natural at_fr --step 2
    """
    from frbench.analysis.fourier import fourier_study

    out = _folder(out, targets)
    subjects = _prepare(targets, device, runs_dir, out)
    n, everything = subjects.count(n, _FOURIER), subjects.images(len(subjects.dataset.test))
    with _progress():
        study = fourier_study(
            subjects.targets, everything, norm=norm, images=n, step=step, seed=seed
        )
    _finish(study, out, form)


def claims(
    targets: TargetList,
    natural: Annotated[str, typer.Option(help="TARGET that was trained without attacks.")] = (
        "natural"
    ),
    n: Annotated[int | None, _count(_CLAIMS, "Test images for accuracies.", 2)] = None,
    spectrum_n: Annotated[int, typer.Option(min=2, help="Of these, for spectra.")] = 64,
    device: DeviceName = "auto",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    out: Out = None,
    form: Format = "table",
) -> None:
    """Does the paper's Analysis hold for these robust models? Measures all that its claims need.

    Example:

        frbench analyze claims at_fr_swa pgd_at --natural natural --n 500
    """
    from frbench.analysis.claims import check_claims
    from frbench.analysis.kernels import kernel_study
    from frbench.analysis.lowpass import filter_study
    from frbench.analysis.spectrum import spectrum_study
    from frbench.attacks import specs

    out = _folder(out, [natural, *targets])
    subjects = _prepare([natural, *targets], device, runs_dir, out)
    samples = subjects.images(n, _CLAIMS)
    few = subjects.images(min(len(samples), spectrum_n))
    with _progress():
        accuracies = filter_study(subjects.targets, samples, seed=seed)
        spectra = spectrum_study(subjects.targets, few, [specs()["pgd20"]], seed=seed)
    shapes = kernel_study(subjects.targets, seed=seed)
    for measured in (accuracies, spectra, shapes):
        measured.save(out)
    first, *others = (target.record.name for target in subjects.targets)
    size = min(samples.size)
    _finish(check_claims(first, others, accuracies, spectra, shapes, size=size), out, form)


class _Study(Protocol):
    def table(self) -> Table: ...
    def to_json(self) -> dict[str, Any]: ...
    def save(self, out: Path) -> None: ...


def _folder(out: Path | None, texts: list[str]) -> Path:
    """`out`, or a folder named after what is analysed, so that nothing else is replaced."""
    if out is not None:
        return out
    names = "+".join(Path(text).name for text in texts)
    if len(names) > _LONGEST_NAME:
        names = f"{names[:_LONGEST_NAME]}-{storage.canonical_digest(texts, length=6)}"
    return OUT / storage.safe_name(names)


def _prepare(texts: list[str], device: str, runs_dir: Path, out: Path) -> Subjects:
    """Everything that can be wrong with the arguments is found before anything is computed."""
    from frbench.analysis.output import check_writable
    from frbench.analysis.subjects import load_subjects
    from frbench.engine.device import find_device

    check_writable(out)
    return load_subjects(texts, device=find_device(device).device, runs_dir=runs_dir)


def _finish(study: _Study, out: Path, form: Form) -> None:
    study.save(out)
    typer.echo(f"wrote {out}/", err=True)
    if form == "json":
        typer.echo(json.dumps(study.to_json()))
    else:
        plain_console().print(study.table())


def _numbers(what: str, text: str, such_as: str) -> list[int]:
    """A list as users type it, `13,1`; InputError when a part is not a whole number."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{what} '{text}' are not whole numbers, such as {such_as}") from None


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """What the analyses log goes to stderr."""
    logger = logging.getLogger("frbench.analysis")
    handler = logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
