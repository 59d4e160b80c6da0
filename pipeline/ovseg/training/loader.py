"""Reading mined shards for training: crop, mask, text and noun id of each sample, over any number of workers and ranks.

Shapes: N samples of a batch, S side of the model's input.
"""

from __future__ import annotations

import json
import logging
import os
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
from webdataset.tariterators import group_by_keys, tar_file_expander

from ovseg.core import crops
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.options import Fill
from ovseg.core.paths import is_remote, to_path
from ovseg.core.remote_files import file_sizes, is_file, open_stream, read_file
from ovseg.core.samples import check_fill, decode_sample
from ovseg.core.tables import STEP_MANIFEST
from ovseg.training.readers import reader_start

log = logging.getLogger("ovseg")

SHUFFLE_BUFFER = 2000  # samples in each worker's buffer
EPOCHS_PER_SEED = (
    1_000_000  # webdataset adds the epoch to the seed: without room, seed 1 would repeat the epochs of seed 0
)
SIZES = "sizes.json"


class Batch(TypedDict):
    """N samples.

    Attributes:
        crop: uint8 `[N, 3, S, S]`; the background is filled again from the mask.
        mask: bool `[N, S, S]`, True is foreground.
        text: N texts.
        noun_id: int64 `[N]`, the ids of nouns.json.
        key: the N keys of the samples.
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
    fill: Fill = "mean",
    antialias: bool = True,
    workers: int = 0,
    crop_scale: float = 1.0,
    repeat: bool = False,
    resampled: bool = False,
    shuffle: bool = True,
    epoch: int = 0,
    seed: int = 0,
) -> DataLoader[Batch]:
    """Make a loader of batches.

    Ranks come from `RANK` and `WORLD_SIZE`, as torchrun sets them. Every sample comes exactly once per epoch over all ranks
    and workers, and a worker's last batch may be short. With `repeat` each reader goes from epoch to epoch without end and
    every batch is full; where the readers cannot share the shards evenly, those with fewer begin the next epoch earlier, and
    which shards they have is drawn anew for each epoch. With `resampled` shards are drawn with replacement without end. The
    order of samples, and with it a training, is the same for the same number of readers (ranks x workers).

    Args:
        folder: the folder of the shards and their sizes.json.
        size: S in pixels.
        batch_size: N.
        mean: the mean of the model's image normalization, for the fill color.
        fill: the background of the crops.
        antialias: whether crops are resized with antialiasing.
        workers: the number of loader processes; 0 loads in this process.
        crop_scale: the smallest fraction of a crop's area that random cropping keeps, see `crops.random_crop`; 1 keeps all.
        repeat: whether the epochs are repeated without end.
        resampled: whether shards are drawn with replacement without end.
        shuffle: whether shards, and samples within a buffer, are shuffled; the order depends on `seed` and `epoch` alone.
        epoch: the number of the (first) epoch.
        seed: the seed of the order and of random crops.

    Raises:
        OvsegError: there are no shards, a shard of sizes.json is missing, there are fewer shards than readers, or the
            background is to be kept and was filled.
    """
    check_fill(folder, fill)
    steps = _read_steps(folder, workers, resampled, shuffle, epoch, seed)
    steps.append(_Decode(size, crops.fill_color(fill, mean), antialias, crop_scale, seed, folder))
    batched = wds.batched(batch_size, collation_fn=_collate, partial=not repeat)
    source = [wds.DataPipeline(*steps).repeat()] if repeat else steps
    pipeline = wds.DataPipeline(*source, batched)
    return wds.WebLoader(  # type: ignore[no-any-return]
        pipeline, batch_size=None, num_workers=workers, worker_init_fn=reader_start()
    )


def _read_steps(folder: Path, workers: int, resampled: bool, shuffle: bool, epoch: int, seed: int) -> list[Any]:
    """The steps of webdataset that read this reader's samples in order; see `load_shards`."""
    paths = list_shards(folder)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    readers = ranks * max(1, workers)
    if not resampled and len(paths) < readers:
        raise OvsegError(
            f"{folder} has {len(paths)} shards for {ranks} ranks x {max(1, workers)} workers, and each needs one. Set "
            f"shards.min_shards to at least {readers}, or use fewer processes (OVSEG_PROCESSES) or workers (OVSEG_WORKERS)"
        )
    names, first = [str(path) for path in paths], seed * EPOCHS_PER_SEED
    before = epoch - 1  # detshuffle counts its epoch up before it is used
    steps: list[Any]
    if resampled:
        steps = [wds.ResampledShards(names, seed=first + epoch, deterministic=True)]
    else:
        steps = [wds.SimpleShardList(names)]
        steps += [wds.detshuffle(len(names), seed=first, epoch=before)] if shuffle else []
        steps += [wds.split_by_node, wds.split_by_worker]
    steps += [
        _read_remote if is_remote(folder) else wds.tarfile_to_samples(handler=_stop),
        partial(_check_complete, read_sizes(folder)),
    ]
    steps += [wds.detshuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4, seed=first, epoch=before)] if shuffle else []
    return steps


def _read_remote(sources: Iterator[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Do as `tarfile_to_samples` for URLs of fsspec; the tars are streamed."""

    def streams() -> Iterator[dict[str, Any]]:
        for source in sources:
            try:
                yield {**source, "stream": open_stream(to_path(source["url"]))}
            except OSError as error:
                _stop(error)

    samples: Iterator[dict[str, Any]] = group_by_keys(tar_file_expander(streams(), handler=_stop), handler=_stop)
    return samples


def endless_batches(
    folder: Path,
    size: int,
    batch_size: int,
    *,
    mean: tuple[float, float, float],
    fill: Fill,
    antialias: bool,
    workers: int,
    crop_scale: float,
    seed: int,
) -> Iterator[Batch]:
    """Iterate over full batches without end; the arguments are those of `load_shards`.

    Raises:
        OvsegError: as `load_shards`; or the shards are damaged.
    """
    loader = load_shards(
        folder,
        size,
        batch_size,
        mean=mean,
        fill=fill,
        antialias=antialias,
        workers=workers,
        crop_scale=crop_scale,
        repeat=True,
        seed=seed,
    )
    try:
        yield from loader
    except OvsegError as error:  # torch puts the traceback of a loader process before its message
        raise OvsegError(str(error).strip().splitlines()[-1].removeprefix("ovseg.core.errors.OvsegError: ")) from None


def read_sizes(folder: Path) -> dict[str, int]:
    """Read the number of samples of each shard.

    Raises:
        OvsegError: there are no finished shards, or sizes.json is broken.
    """
    path = folder / SIZES
    if is_remote(folder) and not is_file(folder / STEP_MANIFEST):
        raise OvsegError(f"{folder} holds no finished shards (no {STEP_MANIFEST}); run the stage `shards` first")
    try:
        return {str(name): int(number) for name, number in json.loads(read_file(path)).items()}
    except OSError:
        raise OvsegError(f"{folder} holds no finished shards (no {SIZES}); run the stage `shards` first") from None
    except (ValueError, AttributeError) as error:
        raise OvsegError(f"{path} is broken ({error}); run the stage `shards` again") from None


def list_shards(folder: Path) -> list[Path]:
    """List the shards that sizes.json names.

    Raises:
        OvsegError: there are none, or one is missing.
    """
    sizes = folder / SIZES
    paths = [folder / name for name in read_sizes(folder)]
    if not paths:
        raise OvsegError(f"{sizes} lists no shard; run the stage `shards` again")
    there = file_sizes(folder) if is_remote(folder) else None
    for path in paths:
        if not (path.is_file() if there is None else path.name in there):
            raise OvsegError(f"{path} is listed in {sizes} and missing; run the stage `shards` again")
    return paths


class _Decode:
    """Decodes the members of each sample. Samples that cannot be used are counted and logged: the first, and every 1000th."""

    def __init__(
        self, size: int, color: ImageArray | None, antialias: bool, crop_scale: float, seed: int, folder: Path
    ) -> None:
        self.size, self.color, self.antialias, self.folder = size, color, antialias, folder
        self.crop_scale, self.seed = crop_scale, seed
        self.rng: np.random.Generator | None = None
        self.dropped = 0

    def __call__(self, raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        decoded, problem = 0, None
        for raw in raws:
            try:
                element = self._element(raw)
            except BadItem as error:
                problem = error
                self.dropped += 1
                if self.dropped == 1 or self.dropped % 1000 == 0:
                    log.warning("dropped %d samples; this one: %s", self.dropped, error)
                continue
            decoded += 1
            yield element
        if problem and not decoded:
            raise OvsegError(f"no sample of {self.folder} can be used; the last one: {problem}. Mine them with ovseg")

    def _element(self, raw: dict[str, Any]) -> dict[str, Any]:
        sample = decode_sample(raw)
        noun_id = sample.record.get("noun_id")
        if not isinstance(noun_id, int):
            raise BadItem("no_noun_id", f"sample {sample.key}: noun_id is {noun_id!r}")
        crop, inside = crops.fill_background(sample.crop, sample.mask, self.color), sample.mask
        if self.crop_scale < 1:
            if self.rng is None:  # made here, in the process of the reader: each has its own
                info = get_worker_info()
                self.rng = np.random.default_rng([self.seed, int(os.environ.get("RANK", "0")), info.id if info else 0])
            crop, inside = crops.random_crop(crop, inside, self.crop_scale, self.rng)
        crop_, mask = crops.resize(crop, inside, self.size, self.antialias)
        return {"crop": crop_, "mask": mask, "text": sample.text, "noun_id": noun_id, "key": sample.key}


def split(batch: Batch, size: int) -> list[Batch]:
    """Split a batch into batches of `size` samples; the last one may be shorter."""
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


def _check_complete(sizes: dict[str, int], raws: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Raise an error where a tar ends before its last sample, which the tar format itself does not detect."""
    for url, group in groupby(raws, key=lambda raw: raw["__url__"]):
        number = 0
        for number, raw in enumerate(group, start=1):  # noqa: B007
            yield raw
        name = Path(url).name
        if number < sizes[name]:
            raise OvsegError(f"{url} ends after {number} of {sizes[name]} samples; run the stage `shards` again")


def _stop(error: Exception) -> bool:
    """Stop the epoch at a damaged tar: going on would train on fewer samples than the user believes."""
    raise OvsegError(f"a shard cannot be read: {error}. `ovseg-mine verify` says which") from error
