"""Reading mined shards for training: crop, mask, text and noun id of each sample, over any number of workers and ranks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader

from ovseg import crops
from ovseg.errors import BadItem, OvsegError
from ovseg.images import Pixels
from ovseg.samples import decode_sample

log = logging.getLogger("ovseg")

SHUFFLE = 2000  # samples in each worker's buffer
EPOCHS = 1_000_000  # that a seed has for itself


class Batch(TypedDict):
    """N samples.

    `crop` uint8 `[N, 3, S, S]` with its background filled again from the mask; `mask` bool `[N, S, S]`, True is
    foreground; `text` and `key` N strings; `noun_id` int64 `[N]`, as in nouns.json.
    """

    crop: Tensor
    mask: Tensor
    text: list[str]
    noun_id: Tensor
    key: list[str]


def load_shards(
    folder: Path,
    size: int,
    batch_size: int,
    *,
    mean: tuple[float, float, float],
    fill: crops.Fill = "mean",
    antialias: bool = True,
    workers: int = 0,
    resampled: bool = False,
    shuffle: bool = True,
    epoch: int = 0,
    seed: int = 0,
) -> DataLoader[Batch]:
    """A loader of batches.

    Ranks come from `RANK` and `WORLD_SIZE`, as torchrun sets them. Not resampled, every sample comes exactly once an
    epoch over all ranks and workers, and a worker's last batch may be short; resampled, shards are drawn with
    replacement for ever.

    Args:
        folder: shards with their sizes.json.
        size: S, the model's input side in pixels.
        batch_size: samples in a batch.
        mean: normalisation mean of the model, for the fill colour.
        fill, antialias: of the crop recipe.
        workers: loading processes; 0 loads in this one.
        resampled: draw shards for ever.
        shuffle: shards, and samples within a buffer; the order depends on `seed` and `epoch` alone.
        epoch, seed: of the order.

    Raises:
        OvsegError: no shards, a shard of sizes.json is missing, or fewer shards than ranks x workers.
    """
    paths = list_shards(folder)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    readers = ranks * max(1, workers)
    if not resampled and len(paths) < readers:
        raise OvsegError(
            f"{folder} has {len(paths)} shards for {ranks} ranks x {max(1, workers)} workers: each needs one. Set "
            f"shards.min_shards to at least {readers}, use fewer workers, or resample"
        )
    colour = crops.fill_colour(fill, mean)
    first = (
        seed * EPOCHS
    )  # webdataset adds the epoch: without room between them, seed 1 would repeat the epochs of seed 0
    names = [str(path) for path in paths]
    steps: list[Any] = [wds.ResampledShards(names, seed=first + epoch, deterministic=True)] if resampled else [
        wds.SimpleShardList(names), *([wds.detshuffle(len(names), seed=first, epoch=epoch - 1)] if shuffle else []),
        wds.split_by_node, wds.split_by_worker,
    ]  # fmt: skip
    steps += [wds.tarfile_to_samples(handler=_stop)]
    steps += [wds.detshuffle(SHUFFLE, initial=SHUFFLE // 4, seed=first, epoch=epoch - 1)] if shuffle else []
    steps += [_Decode(size, colour, antialias), wds.batched(batch_size, collation_fn=_collate, partial=True)]
    return wds.WebLoader(wds.DataPipeline(*steps), batch_size=None, num_workers=workers)  # type: ignore[no-any-return]


def list_shards(folder: Path) -> list[Path]:
    """The shards that sizes.json lists.

    Raises:
        OvsegError: if there are none, or one is missing.
    """
    sizes = folder / "sizes.json"
    if not sizes.is_file():
        raise OvsegError(f"{folder} holds no finished shards (no sizes.json); run the stage `shards` first")
    paths = [folder / name for name in json.loads(sizes.read_text(encoding="utf-8"))]
    for path in paths:
        if not path.is_file():
            raise OvsegError(f"{path} is listed in {sizes} and missing; run the stage `shards` again")
    return paths


class _Decode:
    """Raw members -> one element of a batch. A sample that cannot be read is logged, at first and then rarely."""

    def __init__(self, size: int, colour: Pixels | None, antialias: bool) -> None:
        self.size, self.colour, self.antialias = size, colour, antialias
        self.dropped = 0

    def __call__(self, raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for raw in raws:
            try:
                sample = decode_sample(raw)
            except BadItem as problem:
                self.dropped += 1
                if self.dropped == 1 or self.dropped % 1000 == 0:
                    log.warning("dropped %d samples; this one: %s", self.dropped, problem)
                continue
            filled = crops.fill_background(sample.crop, sample.mask, self.colour)
            crop, mask = crops.fit(filled, sample.mask, self.size, self.antialias)
            yield {
                "crop": crop, "mask": mask, "text": sample.text, "noun_id": sample.record["noun_id"], "key": sample.key,
            }  # fmt: skip


def _collate(samples: list[dict[str, Any]]) -> Batch:
    return {
        "crop": torch.stack([s["crop"] for s in samples]),
        "mask": torch.stack([s["mask"] for s in samples]),
        "text": [s["text"] for s in samples],
        "noun_id": torch.tensor([s["noun_id"] for s in samples]),
        "key": [s["key"] for s in samples],
    }


def _stop(error: Exception) -> bool:
    """A damaged tar stops the epoch: going on would train on less than the user believes."""
    raise OvsegError(f"a shard cannot be read: {error}. `ovseg-mine verify` says which") from error
