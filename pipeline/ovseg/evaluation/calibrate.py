"""Choosing the weight of CLIP in the ensemble and the mask threshold, on a held-out split of the training data alone.

The reference chose both on the benchmarks that it reports (METHODS 4.2). Here they are chosen for each model before any
benchmark is looked at; what is given by hand instead is labelled so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.metrics import metrics
from ovseg.evaluation.summary import totals_of

CHOICE, GRID = "choice.json", "grid.tsv"
CALIBRATED, SAME = "calibrate on ", " (THE SAME IMAGES, not held out)"
Metric = Literal["miou", "miou_gt"]


@dataclass(frozen=True)
class Choice:
    """How a model is used.

    Attributes:
        mask_threshold, weight: see `Segmenter`.
        source: who says so: "calibrate" with the split, or "given".
    """

    mask_threshold: float
    weight: float
    source: str


def calibrate(
    benchmark: Path,
    network: Path,
    clips: Mapping[str, Path],
    out: Path,
    report: Path,
    runtime: Runtime,
    *,
    weights: Sequence[float],
    thresholds: Sequence[float],
    metric: Metric,
    limit: int | None,
    **options: Any,
) -> None:
    """Segment the held-out split with every weight and threshold, and write the best of each model.

    report/choice.json   model -> mask_threshold, weight, source, and the metric reached
    report/grid.tsv      model, mask_threshold, weight, the metric

    Args:
        benchmark: folder of the held-out split.
        network, clips: see `evaluate`.
        out: folder of the table `segmentations`.
        report: folder of the two files; made if needed.
        runtime: devices, workers, batch size, scratch folder.
        weights: of CLIP, to choose among.
        thresholds: of masks.
        metric: that is to be greatest; of equals the one with less of CLIP, at the lower threshold.
        limit: only the first that many images.
        options: see `evaluate`.

    Raises:
        OvsegError: as `evaluate`; no image could be read.
    """
    grid = {threshold: {f"{weight:g}": weight for weight in weights} for threshold in thresholds}
    evaluate(
        benchmark, network, clips, out, runtime, ways=dict.fromkeys(clips, grid), oracles=False, limit=limit, **options
    )
    table, opened = tables.read(out, "segmentations"), read_benchmark(benchmark)
    if not len(table):
        raise OvsegError(f"no image of {benchmark} can be read; see {out / 'failures'}")
    rows: list[tuple[str, float, float, float]] = []
    for model in clips:
        for weight in weights:
            for threshold in thresholds:
                way = pc.and_(pc.equal(table["model"], model), pc.equal(table["threshold"], threshold))
                chosen = table.filter(pc.and_(way, pc.equal(table["classifier"], f"{weight:g}")))
                found = metrics(totals_of(chosen, opened))
                if not found:
                    raise OvsegError(f"no pixel of the {len(chosen)} images of {benchmark} is scored; see its labels")
                rows.append((model, threshold, weight, found[metric]))
    report.mkdir(parents=True, exist_ok=True)
    best = {model: max((row for row in rows if row[0] == model), key=lambda row: row[3]) for model in clips}
    source = f"{CALIBRATED}{benchmark}"
    chosen_ones = {
        model: {**asdict(Choice(row[1], row[2], source)), metric: round(row[3], 6)} for model, row in best.items()
    }
    write_json(report / CHOICE, chosen_ones)
    lines = [f"{model}\t{threshold:g}\t{weight:g}\t{value:.6f}\n" for model, threshold, weight, value in rows]
    (report / GRID).write_text(f"model\tmask_threshold\tweight\t{metric}\n" + "".join(lines), encoding="utf-8")


def read_choice(report: Path, model: str, mask_threshold: float | None, weight: float | None) -> Choice:
    """What `calibrate` chose for a model; what is given stands in its place and is labelled so.

    Raises:
        OvsegError: calibrate has not chosen for this model.
    """
    if mask_threshold is not None and weight is not None:
        return Choice(mask_threshold, weight, "given")
    path = report / CHOICE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))[model]
        found = Choice(float(row["mask_threshold"]), float(row["weight"]), str(row["source"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} holds no choice for {model} ({error!r}); run the stage `calibrate`") from None
    if mask_threshold is not None:
        return Choice(mask_threshold, found.weight, f"mask_threshold given, weight by {found.source}")
    if weight is not None:
        return Choice(found.mask_threshold, weight, f"weight given, mask_threshold by {found.source}")
    return found


def labelled(choice: Choice, benchmark: Benchmark) -> Choice:
    """A choice that was made on images of this very benchmark is labelled so."""
    _, calibrated, where = choice.source.partition(CALIBRATED)
    if not calibrated or not Path(where).is_dir():
        return choice
    other = read_benchmark(Path(where))
    own = {image for image, _ in benchmark.items}
    same = other.images.resolve() == benchmark.images.resolve() and any(image in own for image, _ in other.items)
    return replace(choice, source=choice.source + SAME) if same else choice
