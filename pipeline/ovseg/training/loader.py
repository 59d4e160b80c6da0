"""Reading mined shards for training: crop, mask, text and noun id of each sample, over any number of workers and ranks."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ovseg.core import crops
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.samples import decode_sample

log = logging.getLogger("ovseg")

SHUFFLE = 2000  # samples in each worker's buffer
EPOCHS = 1_000_000  # that a seed has for itself
SIZES = "sizes.json"


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
    crop_scale: float = 1.0,
    repeat: bool = False,
    resampled: bool = False,
    shuffle: bool = True,
    epoch: int = 0,
    seed: int = 0,
) -> DataLoader[Batch]:
    """A loader of batches.

    Ranks come from `RANK` and `WORLD_SIZE`, as torchrun sets them. Every sample comes exactly once an epoch over all ranks
    and workers, and a worker's last batch may be short. Repeated, epoch follows epoch for ever and every batch is full;
    resampled, shards are drawn with replacement for ever. The order, and with it a training, is the same for the same
    number of readers (ranks x workers).

    Args:
        folder: shards with their sizes.json.
        size: S, the model's input side in pixels.
        batch_size: samples in a batch.
        mean: normalisation mean of the model, for the fill colour.
        fill, antialias: of the crop recipe.
        workers: loading processes; 0 loads in this one.
        crop_scale: share of a crop that is seen, see `crops.random_crop`; 1 is all of it.
        repeat: epoch after epoch for ever.
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
    first = seed * EPOCHS  # webdataset adds the epoch: without room, seed 1 would repeat the epochs of seed 0
    names = [str(path) for path in paths]
    steps: list[Any] = (
        [wds.ResampledShards(names, seed=first + epoch, deterministic=True)]
        if resampled
        else [
            wds.SimpleShardList(names),
            *([wds.detshuffle(len(names), seed=first, epoch=epoch - 1)] if shuffle else []),
            wds.split_by_node,
            wds.split_by_worker,
        ]
    )
    steps += [wds.tarfile_to_samples(handler=_stop), partial(_whole, read_sizes(folder))]
    steps += [wds.detshuffle(SHUFFLE, initial=SHUFFLE // 4, seed=first, epoch=epoch - 1)] if shuffle else []
    steps += [_Decode(size, colour, antialias, crop_scale, seed, folder)]
    batched = wds.batched(batch_size, collation_fn=_collate, partial=not repeat)
    source = [wds.DataPipeline(*steps).repeat()] if repeat else steps
    pipeline = wds.DataPipeline(*source, batched)
    return wds.WebLoader(  # type: ignore[no-any-return]
        pipeline, batch_size=None, num_workers=workers, worker_init_fn=_leave_signals
    )


def read_sizes(folder: Path) -> dict[str, int]:
    """How many samples each shard has.

    Raises:
        OvsegError: if there are no finished shards.
    """
    path = folder / SIZES
    try:
        return {str(name): int(number) for name, number in json.loads(path.read_text(encoding="utf-8")).items()}
    except OSError:
        raise OvsegError(f"{folder} holds no finished shards (no {SIZES}); run the stage `shards` first") from None
    except (ValueError, AttributeError) as error:
        raise OvsegError(f"{path} is broken ({error}); run the stage `shards` again") from None


def list_shards(folder: Path) -> list[Path]:
    """The shards that sizes.json lists.

    Raises:
        OvsegError: if there are none, or one is missing.
    """
    sizes = folder / SIZES
    paths = [folder / name for name in read_sizes(folder)]
    if not paths:
        raise OvsegError(f"{sizes} lists no shard; run the stage `shards` again")
    for path in paths:
        if not path.is_file():
            raise OvsegError(f"{path} is listed in {sizes} and missing; run the stage `shards` again")
    return paths


class _Decode:
    """Raw members -> one element of a batch. A sample that cannot be used is logged, at first and then rarely."""

    def __init__(
        self, size: int, colour: ImageArray | None, antialias: bool, crop_scale: float, seed: int, folder: Path
    ) -> None:
        self.size, self.colour, self.antialias, self.folder = size, colour, antialias, folder
        self.crop_scale, self.seed = crop_scale, seed
        self.rng: np.random.Generator | None = None
        self.dropped = 0

    def __call__(self, raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        good, problem = 0, None
        for raw in raws:
            try:
                found = self._element(raw)
            except BadItem as why:
                problem = why
                self.dropped += 1
                if self.dropped == 1 or self.dropped % 1000 == 0:
                    log.warning("dropped %d samples; this one: %s", self.dropped, why)
                continue
            good += 1
            yield found
        if problem and not good:
            raise OvsegError(f"no sample of {self.folder} can be used; the last one: {problem}. Mine them with ovseg")

    def _element(self, raw: dict[str, Any]) -> dict[str, Any]:
        sample = decode_sample(raw)
        noun_id = sample.record.get("noun_id")
        if not isinstance(noun_id, int):
            raise BadItem("no_noun_id", f"sample {sample.key}: noun_id is {noun_id!r}")
        crop, inside = crops.fill_background(sample.crop, sample.mask, self.colour), sample.mask
        if self.crop_scale < 1:
            if self.rng is None:  # only now: each reader has its own
                info = get_worker_info()
                self.rng = np.random.default_rng([self.seed, int(os.environ.get("RANK", "0")), info.id if info else 0])
            crop, inside = crops.random_crop(crop, inside, self.crop_scale, self.rng)
        crop_, mask = crops.resize(crop, inside, self.size, self.antialias)
        return {"crop": crop_, "mask": mask, "text": sample.text, "noun_id": noun_id, "key": sample.key}


def split(batch: Batch, size: int) -> list[Batch]:
    """The same samples as batches of `size`, the last one maybe shorter."""
    return [
        {
            "crop": batch["crop"][i : i + size],
            "mask": batch["mask"][i : i + size],
            "text": batch["text"][i : i + size],
            "noun_id": batch["noun_id"][i : i + size],
            "key": batch["key"][i : i + size],
        }
        for i in range(0, len(batch["key"]), size)
    ]


def _collate(samples: list[dict[str, Any]]) -> Batch:
    return {
        "crop": torch.stack([s["crop"] for s in samples]),
        "mask": torch.stack([s["mask"] for s in samples]),
        "text": [s["text"] for s in samples],
        "noun_id": torch.tensor([s["noun_id"] for s in samples]),
        "key": [s["key"] for s in samples],
    }


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but what to do about it is the training's own affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _whole(sizes: dict[str, int], raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same samples; a tar that ends before its last one is an error, which the tar format itself does not see."""
    for url, group in groupby(raws, key=lambda raw: raw["__url__"]):
        number = 0
        for number, raw in enumerate(group, start=1):  # noqa: B007
            yield raw
        name = Path(url).name
        if number < sizes[name]:
            raise OvsegError(f"{url} ends after {number} of {sizes[name]} samples; run the stage `shards` again")


def _stop(error: Exception) -> bool:
    """A damaged tar stops the epoch: going on would train on less than the user believes."""
    raise OvsegError(f"a shard cannot be read: {error}. `ovseg-mine verify` says which") from error
