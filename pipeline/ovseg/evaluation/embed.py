"""Embedding the masks of a benchmark's images, so that its evaluations need no CLIP for images.

The masks are the proposals at the mask thresholds that will be asked for, and those of the ground truth. All CLIPs embed them
in one pass over the images, and share the proposal network's output and the crops. A mask that a CLIP has encoded in an earlier
run is not encoded again, see `region_store`: benchmarks share images, and often only one of the CLIPs has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.core import hashing, tables
from ovseg.core.failures import write_failures
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import LABELS, read_benchmark
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task
from ovseg.evaluation import region_table
from ovseg.evaluation.benchmark_units import image_sizes, read_unit, unit_names

TOTALS = (Total("images"),)


def embed(
    benchmark: Path,
    network: Path,
    clips: Mapping[str, Path],
    out: Path,
    runtime: Runtime,
    thresholds: Mapping[str, Sequence[float]],
    *,
    options: SegmentOptions,
    crop: CropOptions,
    ground_truth: bool = True,
    limit: int | None = None,
    step: str | None = None,
) -> dict[str, int]:
    """Embed the masks of the images of a benchmark and write the table `region_embeddings`.

    Args:
        benchmark, network: the folders of the benchmark and of the proposal network.
        clips: the folders of the CLIPs by name; all have the same input size and text tower.
        out: the folder of the table.
        runtime: devices, workers, batch size, scratch folder.
        thresholds: by the name of each CLIP the mask thresholds of the proposals that it embeds.
        options: the view of a region and the precisions; the others do not count.
        crop: the crop recipe.
        ground_truth: whether the masks of the ground truth are embedded, too.
        limit: the number of images, from the first on; None for all.
        step: the name of the step; None for one of this benchmark, see `evaluate`.

    Returns:
        counts: "images", "embeddings" (the rows of the table), "dropped.<reason>" of images that could not be read, and those
        of `core.rotation`.

    Raises:
        OvsegError: the benchmark or a model cannot be used, or `out` holds something else.
    """
    opened = read_benchmark(benchmark)
    number = len(opened.items[:limit])
    of_models = {model: tuple(sorted(set(thresholds.get(model, ())))) for model in clips}
    encoders = region_table.encoder_settings(clips, options, crop)
    key = step_key(
        step or f"embed-{benchmark.absolute().name}",
        __name__,
        labels=hashing.sha256_path(benchmark / LABELS),
        read_as=[opened.items, opened.orientation, opened.ignore, len(opened.names)],
        image_sizes=image_sizes(opened, number),
        network=[tables.content_hash(network), options.network_precision],
        encoders=encoders,
        thresholds=of_models,
        ground_truth=ground_truth,
        number=number,
        schema=tables.SCHEMA_VERSION,
    )
    factory = EmbedTaskFactory(
        benchmark=benchmark,
        network=network,
        clips=dict(clips),
        thresholds=of_models,
        options=options,
        crop=crop,
        ground_truth=ground_truth,
        number=number,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
        work=runtime.work,
        encoders=encoders,
        fingerprint=key.fingerprint,
    )
    return run_step(key, unit_names(number), factory, out, runtime, uses_model=True, totals=TOTALS)


@dataclass(frozen=True)
class EmbedTaskFactory:
    """Makes the task that embeds the masks of the images of one unit; see `embed` for the attributes."""

    benchmark: Path
    network: Path
    clips: dict[str, Path]
    thresholds: dict[str, tuple[float, ...]]
    options: SegmentOptions
    crop: CropOptions
    ground_truth: bool
    number: int
    workers: int
    batch_size: int
    work: Path
    encoders: dict[str, dict[str, Any]]
    fingerprint: str

    def __call__(self, device: str) -> Task:
        """Load the models on `device` and return the task."""
        # Only here, because the process that starts the workers needs neither torch nor the models.
        from ovseg.evaluation.benchmark_images import find_masks, regions_of_models
        from ovseg.evaluation.made_with import describe_models
        from ovseg.evaluation.region_rows import to_rows
        from ovseg.evaluation.region_store import embed_regions
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
        first = next(iter(segmenters.values()))
        encoders = {name: segmenter.encoder for name, segmenter in segmenters.items()}
        thresholds = {threshold for of_model in self.thresholds.values() for threshold in of_model}
        models = describe_models(self.network, self.clips)
        store = open_store(self.work, self.network, self.clips, self.options, self.crop, device)

        def task(unit: str, folder: Path) -> Counts:
            failures: list[dict[str, Any]] = []
            counts: Counter[str] = Counter(images=0, embeddings=0)
            images = read_unit(benchmark, unit, self.number, counts, failures)
            found = find_masks(first, images.values(), thresholds, benchmark.ignore, store.network)
            wanted = regions_of_models(found, self.thresholds, self.ground_truth)
            embeddings = embed_regions(encoders, wanted, store.clips)
            items: dict[str, int] = {}
            for item, image in zip(images, found, strict=True):
                items.setdefault(image.image, item)
            rows = to_rows(encoders, embeddings, items)
            region_table.write(folder, unit, rows, self.fingerprint, self.encoders, models)
            write_failures(folder, unit, failures, self.fingerprint)
            counts["embeddings"] += len(rows.items)
            return counts

        return task
