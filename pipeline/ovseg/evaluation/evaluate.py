"""Running a benchmark: one pass over its images gives the label maps of every model, mask threshold and classifier.

The confusion counts of each label map are stored as integers, one row of the table `segmentations` each; metrics are computed
from that table. Images are processed in units of work, so a killed run continues and several devices share the work.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovseg.core import hashing, tables
from ovseg.core.failures import write_failures
from ovseg.core.folders import describe_files
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.core.rotation import explain_rotation
from ovseg.datasets.benchmark import METADATA, read_benchmark
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task
from ovseg.evaluation import region_table
from ovseg.evaluation.benchmark_units import image_sizes, read_unit, unit_names
from ovseg.evaluation.confusion import confusion
from ovseg.evaluation.settings import EvalSetting

log = logging.getLogger("ovseg")

Row = dict[str, Any]


def evaluate(
    benchmark: Path,
    network: Path,
    clips: Mapping[str, Path],
    out: Path,
    runtime: Runtime,
    settings: Sequence[EvalSetting],
    *,
    options: SegmentOptions,
    crop: CropOptions,
    oracles: bool = True,
    limit: int | None = None,
    step: str | None = None,
    embeddings: Path | None = None,
) -> dict[str, int]:
    """Segment the images of a benchmark and write the table `segmentations`.

    Args:
        benchmark, network: the folders of the benchmark and of the proposal network.
        clips: the folders of the CLIPs by name; all have the same input size and text tower.
        out: the folder of the table.
        runtime: devices, workers, batch size, scratch folder.
        settings: the ways to segment each image; a CLIP without a setting only takes part in the oracle of ground-truth masks.
        options, crop: how images are segmented, and the crop recipe.
        oracles: whether to add the two oracles. `oracle_masks`: ground-truth masks classified by CLIP; `oracle_labels`:
            proposals labeled from the ground truth.
        limit: the number of images, from the first on; None for all.
        step: the name of the step; None for one of this benchmark, since a step that is published forgets the finished work
            of others by its name.
        embeddings: the table that `embed` has written for this benchmark and these CLIPs; a mask that it lacks is encoded, such
            as one that another kind of device makes with a few pixels more. Without a table (None) all are encoded that no
            earlier run has kept. Either way the result is the same on one kind of device.

    Returns:
        counts: "images", "dropped.<reason>" of items that could not be read, those of `core.rotation`, and, if a benchmark
        does not list its items, "unread_files" among its labels and "images_without_labels".

    Raises:
        OvsegError: the benchmark or a model cannot be used, or `out` holds something else.
    """
    opened = read_benchmark(benchmark)
    number = len(opened.items[:limit])
    if embeddings:
        region_table.check(embeddings, clips, options, crop)
    key = step_key(
        step or f"evaluate-{benchmark.absolute().name}",
        __name__,
        benchmark=hashing.sha256_path(benchmark),
        image_sizes=image_sizes(opened, number),
        network=tables.content_hash(network),
        clips={name: tables.content_hash(clip) for name, clip in clips.items()},
        settings=[asdict(setting) for setting in settings],
        oracles=oracles,
        number=number,
        options=options.model_dump(mode="json"),
        crop=crop.model_dump(mode="json"),
        embeddings=embeddings and tables.fingerprint(embeddings, region_table.TABLE),
        schema=tables.SCHEMA_VERSION,
    )
    factory = EvaluateTaskFactory(
        benchmark=benchmark,
        network=network,
        clips=dict(clips),
        settings=tuple(settings),
        options=options,
        crop=crop,
        oracles=oracles,
        number=number,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
        work=runtime.work,
        embeddings=embeddings,
        fingerprint=key.fingerprint,
    )
    more_counts = {"unread_files": len(opened.unread), "images_without_labels": len(opened.unlabeled)}
    more_counts = {name: n for name, n in more_counts.items() if n}
    for name, files in (("are no label maps", opened.unread), ("are images without labels", opened.unlabeled)):
        if files:
            log.warning("%s: %d files %s: %s", benchmark, len(files), name, describe_files(files))
    totals = (Total("images"),)
    counts = run_step(
        key, unit_names(number), factory, out, runtime, uses_model=True, totals=totals, more_counts=more_counts
    )
    for warning in explain_rotation(counts, opened.orientation, f"orientation in {benchmark / METADATA}"):
        log.warning("%s", warning)
    return counts


@dataclass(frozen=True)
class EvaluateTaskFactory:
    """Makes the task that segments the images of one unit; see `evaluate` for the attributes."""

    benchmark: Path
    network: Path
    clips: dict[str, Path]
    settings: tuple[EvalSetting, ...]
    options: SegmentOptions
    crop: CropOptions
    oracles: bool
    number: int
    workers: int
    batch_size: int
    work: Path
    embeddings: Path | None
    fingerprint: str

    def __call__(self, device: str) -> Task:
        """Load the models on `device` and return the task."""
        # Only here, because the process that starts the workers needs neither torch nor the models.
        from ovseg.evaluation.made_with import describe_models
        from ovseg.evaluation.predictions import embed_classes, predict_images
        from ovseg.evaluation.region_rows import embeddings_of_unit
        from ovseg.evaluation.store import open_store
        from ovseg.segmentation.segmenter import load_segmenters

        benchmark = read_benchmark(self.benchmark)
        segmenters = load_segmenters(
            self.network,
            self.clips,
            device,
            options=self.options,
            crop=self.crop,
            batch_size=self.batch_size,
            workers=self.workers,
        )
        vocabularies = embed_classes(segmenters, benchmark)
        models = describe_models(self.network, self.clips)
        store = open_store(self.work, self.network, self.clips, self.options, self.crop, device)

        def task(unit: str, folder: Path) -> Counts:
            rows: list[Row] = []
            failures: list[Row] = []
            counts: Counter[str] = Counter(images=0)
            images = read_unit(benchmark, unit, self.number, counts, failures)
            predicted = predict_images(
                segmenters,
                self.settings,
                list(images.values()),
                vocabularies,
                benchmark,
                self.oracles,
                store,
                embeddings_of_unit(self.embeddings, unit, list(self.clips)) if self.embeddings else None,
            )
            for (item, (_, gt)), predictions in zip(images.items(), predicted, strict=True):
                for prediction in predictions:
                    row: Row = {"item": item, **vars(prediction)}
                    index, pixel_counts = confusion(gt, row.pop("labels"), len(benchmark.names), benchmark.ignore)
                    rows.append({**row, "confusion_index": index, "pixels": pixel_counts})
            tables.write_part(folder / f"{unit}.parquet", "segmentations", rows, self.fingerprint, models)
            write_failures(folder, unit, failures, self.fingerprint)
            return counts

        return task
