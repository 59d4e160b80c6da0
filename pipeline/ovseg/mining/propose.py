"""Step `propose`: masks of every image, stored once as RLE, so that what follows never needs the source again."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ovseg.core import masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.engine import weight_files
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Scratch, Task, unit_names
from ovseg.proposals import Proposal, Source
from ovseg.proposals.annotated import check_path, ground_truth, precomputed

log = logging.getLogger("ovseg")

SourceName = Literal["proposal_network", "ground_truth", "precomputed", "maskformer", "sam2"]
USE_MODEL = frozenset({"proposal_network", "maskformer", "sam2"})
ON_HUB = USE_MODEL - {"proposal_network"}


def propose_masks(
    index: Path,
    images: Path,
    out: Path,
    runtime: Runtime,
    *,
    source: SourceName,
    path: Path | None = None,
    model: str | None = None,
    annotations: Path | None = None,
    mask_threshold: float = 0.4,
    max_proposals: int = 100,
) -> dict[str, int]:
    """Write the table `proposals`, one row a mask.

    Args:
        index: folder of the table `index`.
        images: folder that the index's files are in.
        out: folder of the table `proposals`.
        source: "proposal_network", "ground_truth", "precomputed", "maskformer" or "sam2".
        path: masks of "ground_truth" and "precomputed": COCO JSON, a folder of pixel maps, or a table `proposals`.
        model: of the others: the folder of our own proposal network; a name on the Hub or a folder.
        annotations: annotated masks with class names to add, for `select.annotated_fraction`; None for none.
        mask_threshold: a model's soft masks are cut here, in (0, 1).
        max_proposals: at most that many an image, best score first; annotated masks are all taken.

    Returns:
        counts: images, proposals, annotated masks, and what was dropped by reason.

    Raises:
        OvsegError: if a path or model is missing or not what it should be.
    """
    if source in USE_MODEL and not model:
        raise OvsegError(f"the proposal source {source!r} needs a model: a name on the Hub, or a folder")
    where = None if source in USE_MODEL else check_path(path, source)
    known = None if annotations is None else check_path(annotations, "annotations")
    network = _network(source, model)
    key = step_key(
        "propose",
        __name__,
        index=tables.fingerprint(index, "index"),
        source=source,
        model=_model_identity(source, model),
        path=_identity(where),
        annotations=_identity(known),
        threshold=mask_threshold,
        most=max_proposals,
        schema=tables.SCHEMA_VERSION,
    )
    scratch = Scratch(runtime.work, key, runtime.fresh)
    opener = partial(
        _task,
        index,
        images,
        key.fingerprint,
        network,
        scratch.folder,
        source,
        where,
        model,
        known,
        mask_threshold,
        max_proposals,
    )
    if source not in USE_MODEL:
        opener("cpu")  # streams the JSON once, before workers look for it
    units = list(unit_names(index))
    return run_step(key, units, opener, out, runtime, uses_model=source in USE_MODEL, scratch=scratch)


def _model_identity(source: SourceName, model: str | None) -> str | None:
    if source in ON_HUB and model and not Path(model).exists():
        from ovseg.proposals.checkpoint import checkpoint_fingerprint

        return checkpoint_fingerprint(model)
    return _identity(model)


def _network(source: SourceName, model: str | None) -> dict[str, str]:
    """For the metadata of the table: the `Weights` of the network that makes the masks as JSON, and its licence if it has
    one that is not ours to give."""
    if source not in USE_MODEL or not model:
        return {}
    if source == "proposal_network":
        from ovseg.proposals.network_folder import METADATA, identify_network

        known = {"ovseg.network": json.dumps(identify_network(Path(model)), sort_keys=True)}
        about = json.loads((Path(model) / METADATA).read_text(encoding="utf-8"))
        stated = about.get("licence") if "checkpoint" in about else None  # released by others, and converted
    else:
        from ovseg.proposals.checkpoint import identify_checkpoint

        known = {"ovseg.network": json.dumps(asdict(identify_checkpoint(model)), sort_keys=True)}
        stated = weight_files.licence(model)
        log.info("%s: licence %s; its masks carry it", model, stated or "not stated")
    return known | ({tables.LICENCE: stated} if stated else {})


def _identity(where: Path | str | None) -> str | None:
    """What changes when the masks behind a path change."""
    if where is None or not Path(where).exists():
        return where if where is None else str(where)
    return tables.content_hash(Path(where))


def _open(
    source: SourceName, where: Path | None, model: str | None, scratch: Path, threshold: float, most: int, device: str
) -> Source:
    if source in USE_MODEL:
        return _open_model(source, str(model), threshold, most, device)
    assert where is not None
    return ground_truth(where, scratch) if source == "ground_truth" else precomputed(where, scratch, most)


def _open_model(source: SourceName, model: str, threshold: float, most: int, device: str) -> Source:
    if source == "proposal_network":
        from ovseg.proposals.proposal_network import proposal_network_source

        return proposal_network_source(Path(model), threshold, most, device)
    if source == "sam2":
        from ovseg.proposals.sam2 import sam2

        return sam2(model, most, device)
    from ovseg.proposals.maskformer import maskformer

    return maskformer(model, threshold, most, device)


def _task(
    index: Path,
    images: Path,
    key: str,
    network: Mapping[str, str],
    scratch: Path,
    source: SourceName,
    where: Path | None,
    model: str | None,
    annotations: Path | None,
    threshold: float,
    most: int,
    device: str,
) -> Task:
    proposals = _open(source, where, model, scratch, threshold, most, device)
    (scratch / "annotated").mkdir(exist_ok=True)
    annotated = ground_truth(annotations, scratch / "annotated", labels=True) if annotations else None

    def task(unit: str, folder: Path) -> Counts:
        rows: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        counts: Counter[str] = Counter(images=0, proposals=0)
        for image in read_image_records(index / f"{unit}.parquet", images):
            found = list(_masks(image, proposals, annotated))
            good = [item for item in found if isinstance(item, Proposal)]
            rows += [_row(image, number, proposal, source) for number, proposal in enumerate(good)]
            for problem in (item for item in found if isinstance(item, BadItem)):
                failures.append(failure(image.image_id, "mask", problem))
                counts[f"dropped.{problem.reason}"] += 1
            counts["images"] += 1
            counts["proposals"] += sum(proposal.label is None for proposal in good)
            counts["annotated_masks"] += sum(proposal.label is not None for proposal in good)
            counts["dropped.image_without_proposals"] += not good
        tables.write_part(folder / f"{unit}.parquet", "proposals", rows, key, network)
        write_failures(folder, unit, failures, key)
        return {name: n for name, n in counts.items() if n or name in ("images", "proposals")}

    return task


def _masks(image: ImageRecord, proposals: Source, annotated: Source | None) -> Iterator[Proposal | BadItem]:
    try:
        yield from chain(proposals(image), annotated(image) if annotated else ())
    except BadItem as problem:  # the image itself cannot be read
        yield problem


def _row(image: ImageRecord, number: int, proposal: Proposal, source: str) -> dict[str, Any]:
    size = (image.height, image.width)
    return {
        "image_id": image.image_id,
        "proposal": number,
        "rle": proposal.rle,
        "height": size[0],
        "width": size[1],
        "box": list(masks.box(proposal.rle, *size)),
        "area": masks.area(proposal.rle, *size),
        "score": proposal.score,
        "source": source if proposal.label is None else "annotated",
        "label": proposal.label,
    }
