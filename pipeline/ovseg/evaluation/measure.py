"""Measuring one trained model on held-out annotated masks; the stage `measure` runs it for each model.

CLIP's embeddings of the masks are kept, see `region_store`: with other templates nothing is encoded again.

The folder of a measurement (reports/measure/NAME) holds:

    metrics.json        for a CLIP: {"model": scores}, and {"model_without_prompts": scores} where it has mask prompts; the
                        scores are those of `mask_accuracy.measure_mask_accuracy`: of single masks ("mask_accuracy"), and
                        of the unions of all masks of a class in an image ("union_accuracy")
                        for the proposal network: one flat dict, see `proposal_recall.measure_recall`
    mask_accuracy.tsv   of a CLIP: a row for each bar of `dvc plots`: clip, nouns, mask_accuracy, union_accuracy
    recall.tsv          of the proposal network: a row for each bar: masks, recall
    training.tsv        the curves of the training that made the model, copied from its folder; absent where none did
    step.json           the manifest of the folder: fingerprint, counts, sha256 of each file
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.files import CURVES, write_tsv
from ovseg.core.options import CropOptions, Fill, Orientation, Templates
from ovseg.core.rotation import explain_rotation
from ovseg.engine.fingerprint import StepKey, step_key
from ovseg.engine.published import reusable_counts
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import Scratch
from ovseg.engine.totals import Total, check_totals
from ovseg.engine.units import Counts, Task, commit
from ovseg.evaluation import mask_accuracy, proposal_recall
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.evaluation.proposal_recall import measure_recall
from ovseg.evaluation.store import region_folder
from ovseg.proposals.proposal_network import proposal_network_source

log = logging.getLogger("ovseg")

UNIT = "measurement"
GROUPS = {"": "all", "_annotated": "annotated", "_not_annotated": "not annotated"}
FIGURES = ("mask_accuracy", "union_accuracy")
RECALLS = {"ar": "mean of IoU 0.5 to 0.95", "recall_50": "IoU 0.5", "recall_75": "IoU 0.75"}


def measure_clip(
    model: Path,
    images: Path,
    annotations: Path,
    out: Path,
    runtime: Runtime,
    *,
    fill: Fill,
    antialias: bool,
    templates: Templates,
    limit: int | None,
    orientation: Orientation = "exif",
) -> None:
    """Measure the mask accuracy of a CLIP with and without its mask prompts, and write the folder of this module.

    Args:
        model: the folder of the CLIP.
        images: the folder of the held-out images.
        annotations: COCO instances or panoptic JSON of these images.
        out: the folder to write.
        runtime: device, batch size, scratch folder.
        fill: the background of the crops.
        antialias: whether crops are resized with antialiasing.
        templates: the templates of the class names.
        limit: the number of images to measure, from the first on; None for all.
        orientation: whether images are turned as their EXIF orientation says, or used as stored.

    Raises:
        OvsegError: the model or the annotations cannot be used; `out` holds something else.
    """

    def write(_: str, folder: Path) -> Counts:
        counts: Counter[str] = Counter()
        device, crop = runtime.devices[0], CropOptions(fill=fill, antialias=antialias)
        clip = load_adapted(model, device)
        clips, folders = {"model": clip}, {"model": region_folder(runtime.work, model, crop, device)}
        if clip.prompts is not None:
            name = "model_without_prompts"
            clips[name] = load_adapted(model, device, prompts=False)
            folders[name] = region_folder(runtime.work, model, crop, device, prompts=False)
        scores = measure_mask_accuracy(
            clips,
            images,
            annotations,
            fill=fill,
            antialias=antialias,
            templates=templates,
            batch_size=runtime.batch_size,
            limit=limit,
            orientation=orientation,
            counts=counts,
            max_dropped=runtime.max_dropped,
            folders=folders,
        )
        _write_metrics(folder, model, scores)
        rows = [
            (
                f"{model.name}{variant.removeprefix('model').replace('_', ' ')}, {group}",
                group,
                *(f"{fractions[f'{figure}{suffix}']:.4f}" for figure in FIGURES),
            )
            for variant, fractions in scores.items()
            for suffix, group in GROUPS.items()
            if f"mask_accuracy{suffix}" in fractions
        ]
        write_tsv(folder / "mask_accuracy.tsv", ("clip", "nouns", *FIGURES), rows)
        return {**counts, "regions": int(scores["model"]["regions"])}

    parameters = {"fill": fill, "antialias": antialias, "templates": templates}
    key = _key(model, images, annotations, limit=limit, orientation=orientation, **parameters)
    _publish(key, write, mask_accuracy.TOTALS, out, runtime, orientation)


def measure_proposal_network(
    model: Path,
    images: Path,
    annotations: Path,
    out: Path,
    runtime: Runtime,
    *,
    mask_threshold: float,
    max_proposals: int,
    limit: int | None,
    orientation: Orientation = "exif",
) -> None:
    """Measure the average recall of a proposal network, and write the folder of this module.

    Args:
        model: the folder of the network.
        images: the folder of the held-out images.
        annotations: COCO instances or panoptic JSON of these images.
        out: the folder to write.
        runtime: device, scratch folder.
        mask_threshold: a pixel belongs to a mask if its probability is above it, in (0, 1).
        max_proposals: the number of proposals of an image, those with the best scores.
        limit: the number of images to measure, from the first on; None for all.
        orientation: whether images are turned as their EXIF orientation says, or used as stored.

    Raises:
        OvsegError: the model or the annotations cannot be used; `out` holds something else.
    """

    def write(_: str, folder: Path) -> Counts:
        counts: Counter[str] = Counter()
        source = proposal_network_source(model, mask_threshold, max_proposals, runtime.devices[0])
        scores = measure_recall(source, images, annotations, limit, orientation, counts, runtime.max_dropped)
        _write_metrics(folder, model, scores)
        rows = [
            (f"{group}, {description}", f"{scores[measure + suffix]:.4f}")
            for suffix, group in GROUPS.items()
            for measure, description in RECALLS.items()
            if measure + suffix in scores
        ]
        write_tsv(folder / "recall.tsv", ("masks", "recall"), rows)
        return {**counts, "masks": int(scores["masks"]), "proposals": int(scores["proposals"])}

    parameters = {"mask_threshold": mask_threshold, "max_proposals": max_proposals}
    key = _key(model, images, annotations, limit=limit, orientation=orientation, **parameters)
    _publish(key, write, proposal_recall.TOTALS, out, runtime, orientation)


def _key(model: Path, images: Path, annotations: Path, **parameters: object) -> StepKey:
    return step_key(
        f"measure-{model.name}",
        __name__,
        model=tables.content_hash(model),
        images=hashing.sha256_path(images),
        annotations=tables.annotations_hash(annotations),
        **parameters,
    )


def _write_metrics(folder: Path, model: Path, metrics: Mapping[str, object]) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    if (model / CURVES).is_file():
        shutil.copyfile(model / CURVES, folder / CURVES)


def _publish(
    key: StepKey, write: Task, totals: Sequence[Total], out: Path, runtime: Runtime, orientation: Orientation
) -> None:
    """Measure, unless the same measurement is published or kept in the scratch folder, and publish to `out`."""
    published_counts = reusable_counts(out, key, runtime)
    if published_counts is not None:
        check_totals(f"{key.step} ({out})", totals, published_counts, runtime.max_dropped)
        log.info("%s: done before -> %s", key.step, out)
        return
    scratch = Scratch(runtime.work, key, runtime.fresh)
    try:
        counts = scratch.counts(UNIT)
        counts = commit(scratch.folder, UNIT, write) if counts is None else counts
        check_totals(f"{key.step} ({out})", totals, counts, runtime.max_dropped)
        scratch.publish([UNIT], out, counts)
        for warning in explain_rotation(counts, orientation, "heldout.orientation"):
            log.warning("%s: %s", key.step, warning)
        log.info("%s -> %s", key.step, out)
    finally:
        scratch.close()
