"""Official releases of benchmarks, as they unpack, into the layout of benchmark.py; see docs/evaluation.md."""

from __future__ import annotations

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
from ovseg.core.errors import BadItem, OvsegError, explain_full_disk
from ovseg.core.files import write_json
from ovseg.core.images import decode_image, decode_labels, safe_path
from ovseg.datasets import ade20k, coco_stuff, pascal_context, pascal_voc
from ovseg.datasets.benchmark import ABOUT, ITEMS, LABELS, Labels, write_about, write_labels
from ovseg.datasets.classes import HERE, Class, read_classes
from ovseg.datasets.release import UNFINISHED, Item, ReleaseSpec, read_file, write_atomically, write_table
from ovseg.engine.progress import Progress

IMAGES, DROPPED, COUNTS, BEGUN, UNSCORED = "images", "dropped.tsv", "counts.json", "begun", "unscored"

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
    images: Path
    labels: Path
    out: Path
    ignore: int
    short_side: int | None
    since: int  # when the lists of the release were written, in ns: older labels are stale


@dataclass(frozen=True)
class _Outcome:
    cells: tuple[str, ...]  # image and label file; or image, reason and detail
    good: bool = False
    classes: tuple[int, ...] = ()  # that occur
    pixels: int = 0
    ignored: int = 0
    reused: bool = False


def convert(
    name: str, root: Path, out: Path, *, workers: int = 1, allow_missing: bool = False, replace: bool = False
) -> dict[str, int]:
    """Convert an official release. Its images stay where they are, except those of ade847.

    Images that cannot be used, or have no scored pixel (`unscored`, no fault), are left out and listed in dropped.tsv.
    A killed conversion continues: finished labels are kept while they are newer than what they were made of. counts.json
    holds what is returned but for `reused`, and what was published.

    Args:
        name: of BENCHMARKS.
        root: folder that the release was unpacked in, or the release's own.
        out: folder of the benchmark.
        workers: processes.
        allow_missing: make do with what is there.
        replace: start over where `out` holds another benchmark, or this one by other classes.

    Returns:
        how many `images`, `classes` that occur, `pixels`, `ignored_pixels`, `reused` from before, `dropped.<reason>`.

    Raises:
        OvsegError: an unknown name, not this release, `out` holds another benchmark, no usable image; and, unless
            `allow_missing`, other than the published number of images or of classes, or some that cannot be used.
    """
    if name not in BENCHMARKS:
        raise OvsegError(f"{name!r} is none of the benchmarks: {', '.join(BENCHMARKS)}")
    official, classes = BENCHMARKS[name], read_classes(HERE / f"{name}.json")
    found = official.locate(root)
    items = list(official.items(found, classes, official.ignore))
    if not items or (len(items) != official.images and not allow_missing):
        said = f"{found['images']} has {len(items):,} images of {name}, {official.images:,} are published"
        raise OvsegError(f"{said} ({official.where}). Unpack it again, or use what there is: --allow-missing")
    since = max((path.stat().st_mtime_ns for path in found.values() if path.is_file()), default=0)
    job = _Job(found["images"], found["labels"], out, official.ignore, official.short_side, since)
    outcomes: list[_Outcome] = []
    with explain_full_disk(out), Progress("convert", len(items), "images") as progress:
        made_of = (sorted(found), Path(items[0].label).suffix, [(one.id, one.names) for one in classes])
        _begin(out, hashing.fingerprint(name=name, made_of=made_of), replace)
        with closing(_outcomes(job, items, workers)) as done:
            for one in done:
                progress.add({"images" if one.good else f"dropped.{one.cells[1]}": 1}, one.reused)
                outcomes.append(one)
        _check(name, outcomes, out / DROPPED, allow_missing)
        write_table(out / ITEMS, ("image", "label"), [one.cells for one in outcomes if one.good])
        counts = _counts(outcomes)
        if official.counted and counts["classes"] != published(name)["classes"] and not allow_missing:
            said = f"{counts['classes']} classes occur in {found['labels']}, {published(name)['classes']} are published"
            raise OvsegError(
                f"{name}: {said} ({official.where}). Unpack it again, or use what there is: --allow-missing"
            )
        lasting = {what: number for what, number in counts.items() if what != "reused"}  # the same however often it ran
        write_json(out / COUNTS, {**lasting, "published": published(name)})
        _finish(official, classes, out / IMAGES if official.short_side else found["images"], out)
    progress.finish(out)
    return counts


def published(name: str) -> dict[str, int]:
    """How many `images` and, among them, `classes` that occur a benchmark has, as its makers or its users published it."""
    official = BENCHMARKS[name]
    return {"images": official.images, "classes": official.occurring or len(read_classes(HERE / f"{name}.json"))}


def beside_published(name: str, counts: Mapping[str, int]) -> str:
    """What `convert` returned as a table for people, with the published numbers beside it."""
    known = {what: f"{number:,}" for what, number in published(name).items()}
    rows = [("", "here", "published")]
    rows += [(what.replace("_", " ").replace(".", " "), f"{n:,}", known.get(what, "")) for what, n in counts.items()]
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:<{first}}  {b:>{second}}  {c:>{third}}".rstrip() for a, b, c in rows)


def _begin(out: Path, key: str, replace: bool) -> None:
    """From here to the end `out` is no benchmark; labels that it has already must be of this one."""
    begun = (out / BEGUN).read_text(encoding="utf-8") if (out / BEGUN).is_file() else None
    if begun != key and (begun or (out / LABELS).exists()):
        if not replace:
            raise OvsegError(f"{out} holds another benchmark, or this one by other classes; take another folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out, BEGUN, lambda path: path.write_text(key, encoding="utf-8"))
    (out / ABOUT).unlink(missing_ok=True)


def _outcomes(job: _Job, items: Sequence[Item], workers: int) -> Generator[_Outcome]:
    if workers == 1:
        yield from (_convert_one(job, item) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # and Ctrl-C is for this process, not for its workers
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(partial(_convert_one, job), items, chunksize=8)
        except BrokenProcessPool:
            raise OvsegError(f"a worker died; run it again, what is finished is kept in {job.out}") from None


def _convert_one(job: _Job, item: Item) -> _Outcome:
    name = PurePosixPath(item.image).with_suffix(".png").as_posix()
    try:
        image, source = safe_path(job.images, item.image), safe_path(job.labels, item.label)
        labels = before = _finished(job, item, name, image, source)
        if labels is None:
            labels = _make(job, item, name, image, source)
    except BadItem as bad:
        return _Outcome((item.image, bad.reason, " ".join(bad.detail.split())))
    scored = labels[labels != job.ignore]
    classes = tuple(np.unique(scored).tolist())
    return _Outcome((item.image, name), True, classes, labels.size, labels.size - scored.size, before is not None)


def _finished(job: _Job, item: Item, name: str, image: Path, source: Path) -> Labels | None:
    """Labels of an earlier run, if they are whole and newer than what they were made of."""
    done = job.out / LABELS / name
    try:
        stale = done.stat().st_mtime_ns < max(job.since, image.stat().st_mtime_ns, source.stat().st_mtime_ns)
        lacks = job.short_side is not None and not (job.out / IMAGES / item.image).is_file()
        return None if stale or lacks else decode_labels(done.read_bytes()).astype(np.uint16)
    except (OSError, BadItem):
        return None


def _make(job: _Job, item: Item, name: str, image: Path, source: Path) -> Labels:
    pixels, labels = decode_image(read_file(image)), item.read(read_file(source))
    if labels.shape != pixels.shape[:2]:
        raise BadItem("label_size", f"{source} is {labels.shape}, {image} is {pixels.shape[:2]} (rows, columns)")
    small = ade20k.shrink(pixels, labels, job.short_side) if job.short_side else None
    labels = small[1] if small else labels
    if (labels == job.ignore).all():
        raise BadItem(UNSCORED, f"{source} has no pixel of any class")
    if small:
        resized = Image.fromarray(small[0])
        write_atomically(job.out, f"{IMAGES}/{item.image}", lambda path: resized.save(path, format="JPEG", quality=95))
    elif job.short_side:
        write_atomically(job.out, f"{IMAGES}/{item.image}", partial(shutil.copyfile, image))
    write_atomically(job.out, f"{LABELS}/{name}", lambda path: write_labels(path, labels))
    return labels


def _check(name: str, outcomes: Sequence[_Outcome], path: Path, allow_missing: bool) -> None:
    bad = [one.cells for one in outcomes if not one.good]
    write_table(path, ("image", "reason", "detail"), bad)
    faults = [cells for cells in bad if cells[1] != UNSCORED]
    if len(bad) == len(outcomes) or (faults and not allow_missing):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(cells[1] for cells in bad).items())
        raise OvsegError(
            f"{name}: {len(bad):,} of {len(outcomes):,} images cannot be used ({reasons}), see {path}; the first: "
            f"{': '.join((faults or bad)[0])}. Mend them and run it again (finished ones are kept), or use the others: "
            "--allow-missing"
        )


def _finish(official: ReleaseSpec, classes: Sequence[Class], images: Path, out: Path) -> None:
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    seen = [one.seen for one in classes]
    write_about(
        out,
        images,
        [one.names for one in classes],
        official.ignore,
        seen=None if all(seen) else seen,
        source=official.source,
    )


def _counts(outcomes: Sequence[_Outcome]) -> dict[str, int]:
    good = [one for one in outcomes if one.good]
    counts = {"images": len(good), "classes": len({number for one in good for number in one.classes})}
    counts |= {"pixels": sum(one.pixels for one in good), "ignored_pixels": sum(one.ignored for one in good)}
    counts["reused"] = sum(one.reused for one in good)
    return counts | Counter(f"dropped.{one.cells[1]}" for one in outcomes if not one.good)
