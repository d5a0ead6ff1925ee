"""The frequency analyses of a results folder as sections: tables, with small charts beside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frbench.analysis.filters import FrequencyFilter
from frbench.errors import InputError
from frbench.leaderboard.grids import Entry, Grid
from frbench.published import PaperTable1, paper_table1
from frbench.report.charts import Chart, Line, lines
from frbench.report.sources import Study

_EMPTY = Grid("", (), ())
_BANDS = ("low", "mid", "high")


@dataclass(frozen=True)
class StudySection:
    """One analysis: words, a table, charts."""

    name: str
    title: str
    text: str
    grid: Grid
    charts: tuple[Chart, ...] = ()


def sections(studies: Sequence[Study]) -> list[StudySection]:
    """A section a result file; raises InputError that names a file that lacks what it must hold."""
    makers = {
        "lowpass": _lowpass,
        "spectrum": _spectrum,
        "claims": _claims,
        "kernels": _kernels,
    }
    made = []
    order = list(makers)
    for i, study in enumerate(sorted(studies, key=lambda s: (order.index(s.kind), s.path))):
        try:
            made.append(makers[study.kind](f"study{i}", study.content))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(
                f"damaged analysis {study.path}: {error!r}; run 'frbench analyze' again"
            ) from None
    return made


def _entry(estimate: Mapping[str, Any], scale: float = 100, digits: int = 1) -> Entry:
    """An estimate with its interval in smaller print; a share in [0, 1] as percent by default."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    known = low is not None and high is not None
    interval = f"{scale * low:.{digits}f}-{scale * high:.{digits}f}" if known else ""
    return Entry(f"{scale * value:.{digits}f}", interval)


def _lowpass(name: str, content: Mapping[str, Any]) -> StudySection:
    entries = content["entries"]
    first = entries[0]
    widths = [FrequencyFilter(**e["filter"]).label for e in entries]
    labels = list(dict.fromkeys(widths))
    found = {(e["model"], e["attack"], w): e for e, w in zip(entries, widths, strict=True)}
    series = list(dict.fromkeys((e["model"], e["attack"]) for e in entries))
    kind, attack = first["filter"]["kind"], content["attack"]["name"]
    attacked, adaptive = attack in {e["attack"] for e in entries}, content["adaptive"]
    numbers = [
        (
            Entry(model),
            Entry(inputs),
            *(_entry(found[model, inputs, f]["accuracy"]) for f in labels),
        )
        for model, inputs in series
    ]
    data = content["data"]
    paper = paper_table1()
    # The paper's attack does not see the filter.
    beside = bool(data) and data["dataset"] == paper.dataset and kind == "lowpass" and not adaptive
    if beside:
        numbers += _paper_rows(paper, labels, {e["attack"] for e in entries})
    title = {"lowpass": "Low-pass", "highpass": "High-pass", "bandpass": "Band-pass"}[kind]
    way = "through the filter (adaptive)" if adaptive else "without the filter"
    text = (
        f"Accuracy in percent when only some frequencies reach the model, n = {first['n']:,}"
        f"{_of(data)}. {f'{attack} images were crafted {way}. ' if attacked else ''}Filtered "
        f"images are {'clipped to' if first['filter']['clamp'] else 'not clipped to'} [0, 1]."
    )
    if beside:
        text += (
            f" The paper's rows are its {paper.source.table}, of other networks: compare shapes."
        )
    header = ("Model", "Images", *labels)
    remarks = paper.remarks if beside else ()
    grid = Grid(f"{title} filters: width of the block", header, tuple(numbers), remarks, 2)
    charts = [
        _filter_chart(f"{name}-{i}", model, series, found, labels)
        for i, model in enumerate(dict.fromkeys(m for m, _ in series))
    ]
    suffix = ", adaptive attack" if attacked and adaptive else ""
    where = f", {data['dataset']}" if data else ""
    # A report may have several: of other models, or of more images.
    title = f"{title} accuracy{where}, n = {first['n']:,}{suffix}"
    return StudySection(name, title, text, grid, tuple(charts))


def _filter_chart(
    name: str,
    model: str,
    series: Sequence[tuple[str, str]],
    found: Mapping[tuple[str, str, str], Any],
    labels: Sequence[str],
) -> Chart:
    drawn = []
    for owner, inputs in series:
        if owner == model:
            parts = [found[model, inputs, f]["accuracy"] for f in labels]
            shares = [tuple(100 * p[key] for p in parts) for key in ("value", "low", "high")]
            drawn.append(Line(inputs, *shares))
    picture = lines(
        name,
        f"Accuracy of {model} against the width of the filter",
        drawn,
        ticks=labels,
        xlabel="width of the block",
        ylabel="accuracy (%)",
    )
    return Chart(name, model, "", picture, _EMPTY)


def _paper_rows(
    paper: PaperTable1, labels: Sequence[str], inputs: Collection[str]
) -> list[tuple[Entry, ...]]:
    place = {str(width): i for i, width in enumerate(paper.bandwidths)}
    return [
        (
            Entry(f"{row.model} (paper)"),
            Entry(row.inputs),
            *(Entry(f"{row.accuracies[place[f]]:.2f}" if f in place else "-") for f in labels),
        )
        for row in paper.rows
        if row.inputs in inputs
    ]


def _of(data: Mapping[str, Any] | None) -> str:
    if not data:
        return ""
    return f", {data['dataset']} {data['split']} images {data['start']} to {data['stop'] - 1}"


def _spectrum(name: str, content: Mapping[str, Any]) -> StudySection:
    entries, white = content["entries"], content["white_noise"]
    rows = [
        (
            Entry(e["model"]),
            Entry(e["attack"]),
            Entry(str(e["changed"])),
            *(_entry(e["bands"][band]) for band in _BANDS),
        )
        for e in entries
    ]
    noise = [Entry(f"{100 * white['bands'][band]:.1f}") for band in _BANDS]
    rows.append((Entry("white noise"), Entry("-"), Entry("-"), *noise))
    header = ("Model", "Attack", "Images", "Low", "Mid", "High")
    notes = (content["bands"],)
    title = "Share of the perturbation's energy in each band, percent"
    grid = Grid(title, header, tuple(rows), notes, text_columns=2)
    charts = []
    for i, model in enumerate(dict.fromkeys(e["model"] for e in entries)):
        drawn = [
            Line(
                e["attack"],
                tuple(s / w for s, w in zip(e["ring_share"], white["rings"], strict=True)),
            )
            for e in entries
            if e["model"] == model
        ]
        picture = lines(
            f"{name}-{i}",
            f"Spectrum of the perturbations of {model}, energy over that of white noise by radius",
            drawn,
            ticks=None,
            xlabel="radius (cycles an image)",
            ylabel="energy over white noise",
            log=True,
            reference=("white noise", 1.0),
        )
        charts.append(Chart(f"{name}-{i}", model, "", picture, _EMPTY))
    text = (
        f"Where in frequency an attack puts its energy, mean over the images that it changed"
        f"{_of(content['data'])}. Above 1 there is more than white noise would have at that radius."
    )
    where = f", {content['data']['dataset']}" if content["data"] else ""
    return StudySection(name, f"Spectra of the perturbations{where}", text, grid, tuple(charts))


def _claims(name: str, content: Mapping[str, Any]) -> StudySection:
    header = ("Claim", "Finding", "Models", "Measured", "Threshold", "Paper")
    keys = ("claim", "verdict", "models", "measured", "threshold", "paper")
    rows = tuple(tuple(Entry(str(c[key])) for key in keys) for c in content["claims"])
    text = (
        "Each claim of the paper's Analysis is one number with its 95 % interval against a "
        "threshold of ours. It holds, or does not, when the whole interval says so."
    )
    return StudySection(
        name, "The paper's claims as checks", text, Grid("Claims", header, rows, text_columns=6)
    )


def _kernels(name: str, content: Mapping[str, Any]) -> StudySection:
    rows = tuple(
        (
            Entry(e["model"]),
            Entry(str(len(e["by_filter"]))),
            _entry(e["smoothness"], scale=1, digits=2),
            Entry(f"{e['independent_weights']:.2f}"),
        )
        for e in content["entries"]
    )
    header = ("Model", "Filters", "Smoothness", "Independent weights")
    text = f"{content['smoothness']}; lower is smoother. Independent weights are the yardstick."
    return StudySection(name, "Kernels of the first layer", text, Grid("Smoothness", header, rows))
