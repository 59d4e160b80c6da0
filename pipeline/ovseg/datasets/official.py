"""Convert official releases of benchmarks, as they unpack, into the layout of benchmark.py; see docs/evaluation.md."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ovseg.core import hashing
from ovseg.core.errors import BadItem, OvsegError, explain_write_errors
from ovseg.core.files import write_json
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import decode_labels, decode_with_header, safe_path
from ovseg.core.options import Orientation
from ovseg.datasets import ade20k, coco_stuff, pascal_context, pascal_voc
from ovseg.datasets.benchmark import ITEMS, LABELS, METADATA, Labels, write_labels, write_metadata
from ovseg.datasets.classes import CLASS_TABLES, Class, read_classes
from ovseg.datasets.release import UNFINISHED, Item, ReleaseSpec, read_file, write_atomically, write_table
from ovseg.engine.fingerprint import code_of
from ovseg.engine.progress import Progress

log = logging.getLogger("ovseg")

IMAGES, DROPPED, COUNTS, IN_PROGRESS = "images", "dropped.tsv", "counts.json", "in_progress"
UNSCORED = "unscored"  # reason of images without a pixel of any class, which is no fault
ALLOW_MISSING_REMEDY = "Unpack it again, or use what is there with --allow-missing"

BENCHMARKS: dict[str, ReleaseSpec] = {
    "ade150": ade20k.ADE150,
    "ade847": ade20k.ADE847,
    "pc59": pascal_context.CONTEXT59,
    "pc459": pascal_context.CONTEXT459,
    "pas20": pascal_voc.VOC,
    "voc": pascal_voc.VOC,
    "cocostuff": coco_stuff.COCOSTUFF,
    "cocostuff156": coco_stuff.COCOSTUFF,
}
"""The benchmarks by name; the class table of each is classes/<name>.json."""
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ade150": ("ade20k", ("ade150",)),
    "ade847": ("ade20k", ("ade847",)),
    "pc59": ("pascal_context", ("voc2010", "context")),
    "pc459": ("pascal_context", ("voc2010", "context")),
    "pas20": ("pascal_voc", ("voc2012", "aug")),
    "voc": ("pascal_voc", ("voc2012", "aug")),
    "cocostuff": ("coco", ("val2017", "stuffthingmaps")),
    "cocostuff156": ("coco", ("val2017", "stuffthingmaps")),
}
"""The data set that each benchmark is converted from, and the parts of it, as in data/*/dvc.yaml."""


@dataclass(frozen=True)
class _Job:
    """What the processes of a conversion share.

    Attributes:
        images: folder of the release's images.
        labels: folder of the release's label files.
        out: folder of the benchmark.
        ignore: number of pixels that are not scored.
        short_side: short side that larger images are reduced to, in pixels; None keeps all sizes.
        lists_mtime_ns: time when the lists of the release were last changed; labels made before are stale.
        orientation: whether images are turned as their EXIF metadata say, or used as stored.
    """

    images: Path
    labels: Path
    out: Path
    ignore: int
    short_side: int | None
    lists_mtime_ns: int
    orientation: Orientation


@dataclass(frozen=True)
class _Outcome:
    """What became of one image.

    Attributes:
        cells: image and label file; of an image that cannot be used, image file, reason and detail.
        usable: whether the image is part of the benchmark.
        classes: classes that occur in it.
        pixels: number of its pixels.
        ignored: number of its pixels that are not scored.
        reused: whether its labels are from an earlier run.
    """

    cells: tuple[str, ...]
    usable: bool = False
    classes: tuple[int, ...] = ()
    pixels: int = 0
    ignored: int = 0
    reused: bool = False


def convert(
    name: str,
    root: Path,
    out: Path,
    *,
    workers: int = 1,
    allow_missing: bool = False,
    replace: bool = False,
    orientation: Orientation = "exif",
) -> dict[str, int]:
    """Convert an official release. Its images stay where they are, except those of ade847.

    Images that cannot be used, or have no scored pixel (`unscored`), are left out and listed in dropped.tsv. A killed
    conversion continues: finished labels are kept if they are newer than the files they were made from, and made by the same
    code. counts.json holds the returned counts without `reused`, and the published ones.

    Args:
        name: name of the benchmark, a key of BENCHMARKS.
        root: folder that the release was unpacked in, or the release's own folder.
        out: folder of the benchmark.
        workers: number of processes.
        allow_missing: whether an incomplete release is converted as far as possible.
        replace: whether to start over if `out` holds another benchmark, or this one with other classes.
        orientation: whether images are turned as their EXIF metadata say, or used as stored.

    Returns:
        the number of `images`, of `classes` that occur, of `pixels` and `ignored_pixels`, of images `reused` from an earlier
        run, and of those `dropped.<reason>`.

    Raises:
        OvsegError: if the name is unknown, `root` is not this release, `out` holds another benchmark, or no image is usable.
            Unless `allow_missing`, also if the number of images or of classes is not the published one, or an image cannot
            be used.
    """
    if name not in BENCHMARKS:
        raise OvsegError(f"{name!r} is none of the benchmarks: {', '.join(BENCHMARKS)}")
    spec, classes = BENCHMARKS[name], read_classes(CLASS_TABLES / f"{name}.json")
    paths = spec.locate(root)
    items = list(spec.items(paths, classes, spec.ignore))
    if not items or (len(items) != spec.images and not allow_missing):
        raise OvsegError(
            f"{paths['images']} has {len(items):,} images of {name}, but {spec.images:,} are published ({spec.where}). "
            f"{ALLOW_MISSING_REMEDY}"
        )
    lists_mtime_ns = max((path.stat().st_mtime_ns for path in paths.values() if path.is_file()), default=0)
    job = _Job(paths["images"], paths["labels"], out, spec.ignore, spec.short_side, lists_mtime_ns, orientation)
    outcomes: list[_Outcome] = []
    with explain_write_errors(out), Progress("convert", len(items), "images") as progress:
        made_of = (sorted(paths), Path(items[0].label).suffix, [(entry.id, entry.names) for entry in classes])
        turn = {} if orientation == "exif" else {"orientation": orientation}
        _begin(out, hashing.fingerprint(name=name, made_of=made_of, **turn), replace)
        with closing(_convert_all(job, items, workers)) as results:
            for outcome in results:
                count = "images" if outcome.usable else f"dropped.{outcome.cells[1]}"
                progress.add({count: 1}, outcome.reused)
                outcomes.append(outcome)
        _check_outcomes(name, outcomes, out / DROPPED, allow_missing)
        write_table(out / ITEMS, ("image", "label"), [outcome.cells for outcome in outcomes if outcome.usable])
        counts = _count(outcomes)
        if spec.counted and counts["classes"] != published(name)["classes"] and not allow_missing:
            raise OvsegError(
                f"{name}: {counts['classes']} classes occur in {paths['labels']}, but {published(name)['classes']} are "
                f"published ({spec.where}). {ALLOW_MISSING_REMEDY}"
            )
        # `reused` is left out, so that counts.json is the same however often the conversion was interrupted
        lasting = {key: number for key, number in counts.items() if key != "reused"}
        write_json(out / COUNTS, {**lasting, "published": published(name)})
        _finish(spec, classes, out / IMAGES if spec.short_side else paths["images"], out, orientation)
    progress.finish(out)
    return counts


def published(name: str) -> dict[str, int]:
    """The published number of `images` of a benchmark, and of `classes` that occur in them."""
    spec = BENCHMARKS[name]
    return {"images": spec.images, "classes": spec.occurring or len(read_classes(CLASS_TABLES / f"{name}.json"))}


def format_counts(name: str, counts: Mapping[str, int]) -> str:
    """The counts that `convert` returned as a table for people, with the published numbers beside them."""
    known = {key: f"{number:,}" for key, number in published(name).items()}
    rows = [("", "here", "published")]
    rows += [(key.replace("_", " ").replace(".", " "), f"{n:,}", known.get(key, "")) for key, n in counts.items()]
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:<{first}}  {b:>{second}}  {c:>{third}}".rstrip() for a, b, c in rows)


def _begin(out: Path, key: str, replace: bool) -> None:
    """Mark `out` as a conversion in progress, without labels that other code has made.

    Labels that it holds already must be of the same benchmark and classes.
    """
    path, code = out / IN_PROGRESS, hashing.fingerprint(code=code_of(__name__))
    earlier_key, _, earlier_code = path.read_text(encoding="utf-8").partition("\n") if path.is_file() else ("", "", "")
    if earlier_key != key and (earlier_key or (out / LABELS).exists()):
        if not replace:
            raise OvsegError(f"{out} holds another benchmark, or this one with other classes; give another folder")
        shutil.rmtree(out)
    elif earlier_key and earlier_code != code:
        log.warning("%s: the code has changed since its labels were made; making them again", out)
        shutil.rmtree(out / LABELS, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out, IN_PROGRESS, lambda tmp_path: tmp_path.write_text(f"{key}\n{code}", encoding="utf-8"))
    (out / METADATA).unlink(missing_ok=True)


def _convert_all(job: _Job, items: Sequence[Item], workers: int) -> Generator[_Outcome]:
    if workers == 1:
        yield from (_convert_one(job, item) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # and Ctrl-C is handled by this process, not by its workers
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(partial(_convert_one, job), items, chunksize=8)
        except BrokenProcessPool:
            raise OvsegError(
                f"a worker process died. Finished labels are kept in {job.out}: run the same command again"
            ) from None


def _convert_one(job: _Job, item: Item) -> _Outcome:
    name = PurePosixPath(item.image).with_suffix(".png").as_posix()
    try:
        image, label = safe_path(job.images, item.image), safe_path(job.labels, item.label)
        labels = earlier_labels = _read_finished(job, item, name, image, label)
        if labels is None:
            labels = _make_labels(job, item, name, image, label)
    except BadItem as bad:
        return _Outcome((item.image, bad.reason, " ".join(bad.detail.split())))
    scored = labels[labels != job.ignore]
    classes = tuple(np.unique(scored).tolist())
    ignored = labels.size - scored.size
    return _Outcome((item.image, name), True, classes, labels.size, ignored, earlier_labels is not None)


def _read_finished(job: _Job, item: Item, name: str, image: Path, label: Path) -> Labels | None:
    """The labels of an earlier run, if they are whole and newer than the files they were made from."""
    path = job.out / LABELS / name
    try:
        sources_mtime_ns = max(job.lists_mtime_ns, image.stat().st_mtime_ns, label.stat().st_mtime_ns)
        if path.stat().st_mtime_ns < sources_mtime_ns:
            return None
        if job.short_side is not None and not (job.out / IMAGES / item.image).is_file():
            return None
        return decode_labels(path.read_bytes()).astype(np.uint16)
    except (OSError, BadItem):
        return None


def _make_labels(job: _Job, item: Item, name: str, image: Path, label: Path) -> Labels:
    (pixels, header), labels = decode_with_header(read_file(image), job.orientation), item.read(read_file(label))
    record = ImageRecord.of_file(job.images, item.image, header, job.orientation)
    record.check_size(str(label), labels.shape, "label_size")
    small = ade20k.shrink(pixels, labels, job.short_side) if job.short_side else None
    labels = small[1] if small else labels
    if (labels == job.ignore).all():
        raise BadItem(UNSCORED, f"{label} has no pixel of any class")
    if small:
        resized = Image.fromarray(small[0])
        write_atomically(job.out, f"{IMAGES}/{item.image}", lambda path: resized.save(path, format="JPEG", quality=95))
    elif job.short_side:
        write_atomically(job.out, f"{IMAGES}/{item.image}", partial(shutil.copyfile, image))
    write_atomically(job.out, f"{LABELS}/{name}", lambda path: write_labels(path, labels))
    return labels


def _check_outcomes(name: str, outcomes: Sequence[_Outcome], path: Path, allow_missing: bool) -> None:
    """List the images that cannot be used, and raise an error if there are any that `allow_missing` does not excuse."""
    dropped = [outcome.cells for outcome in outcomes if not outcome.usable]
    write_table(path, ("image", "reason", "detail"), dropped)
    faults = [cells for cells in dropped if cells[1] != UNSCORED]
    if len(dropped) == len(outcomes) or (faults and not allow_missing):
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in Counter(cells[1] for cells in dropped).items())
        raise OvsegError(
            f"{name}: {len(dropped):,} of {len(outcomes):,} images cannot be used ({reasons}); {path} lists them, the first is "
            f"{': '.join((faults or dropped)[0])}. Repair them and run the same command again (finished ones are kept), or use "
            "the others with --allow-missing"
        )


def _finish(spec: ReleaseSpec, classes: Sequence[Class], images: Path, out: Path, orientation: Orientation) -> None:
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    names, seen = [entry.names for entry in classes], [entry.seen for entry in classes]
    write_metadata(
        out, images, names, spec.ignore, seen=None if all(seen) else seen, source=spec.source, orientation=orientation
    )


def _count(outcomes: Sequence[_Outcome]) -> dict[str, int]:
    usable = [outcome for outcome in outcomes if outcome.usable]
    return {
        "images": len(usable),
        "classes": len({number for outcome in usable for number in outcome.classes}),
        "pixels": sum(outcome.pixels for outcome in usable),
        "ignored_pixels": sum(outcome.ignored for outcome in usable),
        "reused": sum(outcome.reused for outcome in usable),
        **Counter(f"dropped.{outcome.cells[1]}" for outcome in outcomes if not outcome.usable),
    }
