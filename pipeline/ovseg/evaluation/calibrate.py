"""Choosing the weight of CLIP in the ensemble and the mask threshold on a held-out split of the training data.

The reference code chose both on the benchmarks that it reports. Here they are chosen for each model before any benchmark is
evaluated; values that are set by hand are labeled as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
from pydantic import ValidationError

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json, write_tsv
from ovseg.core.json_files import read_json
from ovseg.core.options import CalibrateOptions, CropOptions, SegmentOptions
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.benchmark_metrics import totals_of_rows
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.metrics import segmentation_metrics
from ovseg.evaluation.settings import EvalSetting

CHOICE, THRESHOLDS, GRID, INPUTS = "choice.json", "thresholds.json", "grid.tsv", "inputs.json"
CALIBRATED, SAME_IMAGES = "calibrate on ", " (THE SAME IMAGES, not held out)"


@dataclass(frozen=True)
class Choice:
    """The mask threshold and the weight that a model is used with.

    Attributes:
        mask_threshold, weight: see `Segmenter`.
        source: where the values come from: "calibrate on <split>", "given", or one of each.
    """

    mask_threshold: float
    weight: float
    source: str

    def override(self, mask_threshold: float | None, weight: float | None) -> Choice:
        """Return this choice with those values that are given, labeled as given."""
        if mask_threshold is not None and weight is not None:
            return Choice(mask_threshold, weight, "given")
        if mask_threshold is not None:
            return Choice(mask_threshold, self.weight, f"mask_threshold given, weight by {self.source}")
        if weight is not None:
            return Choice(self.mask_threshold, weight, f"weight given, mask_threshold by {self.source}")
        return self


@dataclass(frozen=True)
class Calibrated:
    """How a CLIP and a proposal network segmented when `calibrate` chose for them.

    Attributes:
        model: the name of the CLIP.
        options: how images were segmented.
        crop: the crop recipe.
    """

    model: str
    options: SegmentOptions
    crop: CropOptions


def calibrate(
    network: Path,
    clips: Mapping[str, Path],
    out: Path,
    report: Path,
    runtime: Runtime,
    calibration: CalibrateOptions,
    *,
    options: SegmentOptions,
    crop: CropOptions,
    embeddings: Path | None = None,
) -> None:
    """Segment the held-out split with every weight and threshold, and write the best of each model.

        report/choice.json       model -> mask_threshold, weight, source, and the metric that they reach
        report/thresholds.json   model -> mask_threshold alone: all that the embeddings of a benchmark depend on
        report/grid.tsv          model, mask_threshold, weight, metric
        report/inputs.json       what they hold for: content hashes of the network and of each CLIP, and both groups of options

    Of equal results the smallest weight is chosen, then the lowest threshold, if both lists are ascending.

    Args:
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name, see `evaluate`.
        out: the folder of the table `segmentations`.
        report: the folder of the four files; it is created if it does not exist.
        runtime: devices, workers, batch size, scratch folder.
        calibration: the held-out split, the weights and thresholds to try, and the metric.
        options: how images are segmented.
        crop: the crop recipe.
        embeddings: the embeddings of the split's masks, see `evaluate`.

    Raises:
        OvsegError: as `evaluate`; or no image of the split can be read, or no pixel of it is scored.
    """
    settings = [
        EvalSetting(model, threshold, f"{weight:g}", weight)
        for model in clips
        for threshold in calibration.thresholds
        for weight in calibration.weights
    ]
    split = calibration.benchmark
    evaluate(
        split,
        network,
        clips,
        out,
        runtime,
        settings,
        options=options,
        crop=crop,
        oracles=False,
        limit=calibration.limit,
        step="calibrate",
        embeddings=embeddings,
    )
    grid = _grid(out, read_benchmark(split), list(clips), calibration)
    report.mkdir(parents=True, exist_ok=True)
    choices = {}
    for model in clips:
        _, threshold, weight, value = max((row for row in grid if row[0] == model), key=lambda row: row[3])
        choice = Choice(threshold, weight, f"{CALIBRATED}{split}")
        choices[model] = {**asdict(choice), calibration.metric: round(value, 6)}
    write_json(report / CHOICE, choices)
    write_json(report / THRESHOLDS, {model: choice["mask_threshold"] for model, choice in choices.items()})
    rows = [(model, f"{threshold:g}", f"{weight:g}", f"{value:.6f}") for model, threshold, weight, value in grid]
    write_tsv(report / GRID, ("model", "mask_threshold", "weight", calibration.metric), rows)
    inputs = {
        "network": tables.content_hash(network),
        "clips": {model: tables.content_hash(clip) for model, clip in clips.items()},
        "segment": options.model_dump(mode="json"),
        "crop": crop.model_dump(mode="json"),
    }
    write_json(report / INPUTS, inputs)


def _grid(
    out: Path, split: Benchmark, models: list[str], calibration: CalibrateOptions
) -> list[tuple[str, float, float, float]]:
    """Model, mask threshold, weight, and the value of the metric."""
    table = tables.read(out, "segmentations")
    if not len(table):
        raise OvsegError(f"no image of {split.folder} can be read; the reasons are in {out / 'failures'}")
    grid = []
    for model in models:
        for weight in calibration.weights:
            for threshold in calibration.thresholds:
                of_model = pc.and_(pc.equal(table["model"], model), pc.equal(table["threshold"], threshold))
                rows = table.filter(pc.and_(of_model, pc.equal(table["classifier"], f"{weight:g}")))
                values = segmentation_metrics(totals_of_rows(rows, split))
                if not values:
                    raise OvsegError(
                        f"no pixel of the {len(rows)} images of {split.folder} is scored: all labels are {split.ignore}, "
                        "which is ignored"
                    )
                grid.append((model, threshold, weight, values[calibration.metric]))
    return grid


def read_choice(report: Path, model: str, mask_threshold: float | None, weight: float | None) -> Choice:
    """Read what `calibrate` chose for a model; values that are given take precedence and are labeled as given.

    Args:
        report: the folder that `calibrate` wrote.
        model: the name of the model.
        mask_threshold: None for the chosen one.
        weight: None for the chosen one.

    Raises:
        OvsegError: a value is not given and `calibrate` has not chosen for this model.
    """
    if mask_threshold is not None and weight is not None:
        return Choice(mask_threshold, weight, "given")
    path = report / CHOICE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))[model]
        choice = Choice(float(row["mask_threshold"]), float(row["weight"]), str(row["source"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} has no choice for the model {model} ({error!r}); run the stage `calibrate`") from None
    return choice.override(mask_threshold, weight)


def read_thresholds(report: Path, models: Sequence[str]) -> dict[str, float]:
    """Read the mask thresholds that `calibrate` chose for some models.

    Args:
        report: the folder that `calibrate` wrote.
        models: the names of the models.

    Raises:
        OvsegError: `calibrate` has not chosen for one of them.
    """
    path = report / THRESHOLDS
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        return {model: float(chosen[model]) for model in models}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(
            f"{path} has no threshold for each of {', '.join(models)} ({error!r}); run the stage `calibrate`"
        ) from None


def find_calibrated(report: Path, network: Path, clip: Path) -> Calibrated | None:
    """Find a proposal network and a CLIP among those that `calibrate` has chosen for, by their content.

    Args:
        report: the folder that `calibrate` wrote. In one of an older version, without inputs.json, the name of the CLIP's
            folder counts, and the options are the defaults.
        network: the folder of the proposal network.
        clip: the folder of the CLIP.

    Returns:
        how they segmented; None if `calibrate` has not chosen for them.

    Raises:
        OvsegError: a file of `calibrate` cannot be read.
    """
    path = report / INPUTS
    if not (network.is_dir() and clip.is_dir() and (report / CHOICE).is_file()):
        return None
    if not path.is_file():
        choices = read_json(report / CHOICE)
        known = isinstance(choices, dict) and clip.name in choices
        return Calibrated(clip.name, SegmentOptions(), CropOptions()) if known else None
    try:
        inputs = read_json(path)
        if inputs["network"] != tables.content_hash(network):
            return None
        found, names = tables.content_hash(clip), [clip.name, *inputs["clips"]]
        model = next((name for name in names if inputs["clips"].get(name) == found), None)
        options, crop = SegmentOptions(**inputs["segment"]), CropOptions(**inputs["crop"])
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        problem = " ".join(repr(error).split())
        raise OvsegError(
            f"{path} is not what `calibrate` of this version writes ({problem}); run the stage again"
        ) from None
    return None if model is None else Calibrated(model, options, crop)


def label_same_images(choice: Choice, benchmark: Benchmark) -> Choice:
    """Return the choice, labeled if it was made on images of the benchmark that is evaluated with it."""
    _, calibrated, folder = choice.source.partition(CALIBRATED)
    if not calibrated or not Path(folder).is_dir():
        return choice
    split = read_benchmark(Path(folder))
    images = {image for image, _ in benchmark.items}
    same_folder = split.images.resolve() == benchmark.images.resolve()
    same_images = same_folder and any(image in images for image, _ in split.items)
    return replace(choice, source=choice.source + SAME_IMAGES) if same_images else choice
