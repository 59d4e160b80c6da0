"""What a run would do and cost, without doing it: `ovseg-mine run --dry-run`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from ovseg.clip.load import load_clip
from ovseg.core.options import ProposeOptions
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Store
from ovseg.datasets.webdataset import open_shards
from ovseg.engine.runtime import Runtime
from ovseg.mining.estimates import BYTES_PER_SAMPLE, duration, nouns_per_image, size
from ovseg.mining.index import IMAGES_PER_PART
from ovseg.mining.nouns import load_tagger
from ovseg.mining.run import Settings
from ovseg.proposals.sources import path_of

SAMPLE = 200  # images whose annotations are counted for the estimate


def plan(settings: Settings, out: Path, runtime: Runtime) -> str:
    """A table of steps with what they would handle; the encoder is timed on two batches of zeros.

    Raises:
        OvsegError: whatever would stop the run at once: a missing file, an unknown CLIP, no tagger.
    """
    s = settings
    load_tagger(s.nouns_model)
    clip = load_clip(
        s.clip_model,
        "random" if not s.clip_model.startswith(("local-dir:", "hf-hub:")) else s.clip_pretrained,
        runtime.devices[0],
        s.precision,
    )
    with tempfile.TemporaryDirectory() as scratch:
        captions = Path(s.captions)
        store = (open_shards if captions.is_dir() else open_coco)(captions, Path(scratch) / "captions.sqlite")
        number = min(store.count(), s.limit or store.count())
        per_image = _masks_per_image(s, store, number, Path(scratch))
        texts = 1 if s.captions_per_image == 1 else _captions_per_image(store, number)
    crops_, nouns = round(number * per_image), round(number * nouns_per_image(texts))
    zeros = torch.zeros(runtime.batch_size, 3, clip.size, clip.size, dtype=torch.uint8)
    clip.encode_crops(zeros)
    begun = time.monotonic()
    clip.encode_crops(zeros)
    rate = runtime.batch_size / (time.monotonic() - begun) * len(runtime.devices)
    units = -(-number // IMAGES_PER_PART)
    return "\n".join(
        [
            f"{'step':10}{'handles':>34}",
            f"{'index':10}{number:>27,} images   {units:,} units of {IMAGES_PER_PART} images",
            f"{'nouns':10}{round(number * texts):>25,} captions   about {nouns:,} nouns (as many as in COCO)",
            f"{'propose':10}{crops_:>28,} masks   source {s.source}, {per_image:.1f} an image",
            f"{'score':10}{crops_:>28,} crops   {s.clip_model}, {rate:,.0f} crops/s measured on {', '.join(runtime.devices)}"
            f": about {duration(crops_ / rate)}",
            f"{'shards':10}{nouns:>26,} samples   about {size(nouns * BYTES_PER_SAMPLE['photographs'])} in {out / 'shards'}",
            f"Unfinished work is kept in {runtime.work}. Nothing was done: leave out --dry-run to start.",
        ]
    )


def _masks_per_image(settings: Settings, store: Store, number: int, scratch: Path) -> float:
    """Counted on the first images for masks on disk; the most there can be for a model."""
    if settings.path is None:
        return float(settings.max_proposals)
    path = path_of(ProposeOptions(source=settings.source, path=Path(settings.path)))
    if path.is_dir() or path.suffix != ".json" or settings.source != "ground_truth":
        return float(settings.max_proposals)
    masks = open_coco(path, scratch / "masks.sqlite")
    found = [masks.annotations(image["id"]) for image in store.images(0, min(number, SAMPLE))]
    counts = [sum(len(record.get("segments_info", [0])) for record in records) for records in found]
    return sum(counts) / max(1, len(counts))


def _captions_per_image(store: Store, number: int) -> float:
    few = min(number, SAMPLE)
    return sum(len(store.annotations(image["id"])) for image in store.images(0, few)) / max(1, few)
