"""Reading shards: every sample once an epoch, whoever reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import webdataset as wds

from ovseg.core.crops import fill_color
from ovseg.core.errors import OvsegError
from ovseg.core.options import ShardsOptions
from ovseg.core.samples import Sample, encode_sample, sample_key
from ovseg.engine.runtime import Runtime
from ovseg.mining.shards import CLIP_MEAN, write_shards
from ovseg.training.loader import Batch, load_shards
from tests.conftest import Mined

SIZE = 16
SHARDS, PER_SHARD = 6, 5


def sample(number: int, **changes: Any) -> Sample:
    """A crop of noise; its mask is the left half, and every pixel there has the fill color."""
    crop = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    mask = np.zeros((20, 24), bool)
    mask[:, :12] = True
    color = fill_color("mean", CLIP_MEAN)
    assert color is not None
    crop[mask] = color
    values: dict[str, Any] = {
        "key": sample_key(number),
        "crop": crop,
        "mask": mask,
        "text": f"noun {number}",
        "record": {"noun_id": number},
    }
    return Sample(**{**values, **changes})


def write(folder: Path, shards: Sequence[Sequence[Sample]]) -> Path:
    sizes = {}
    for number, samples in enumerate(shards):
        name = f"{number:05d}.tar"
        with (folder / name).open("wb") as stream, wds.TarWriter(stream) as tar:
            for entry in samples:
                tar.write(encode_sample(entry, 95))
        sizes[name] = len(samples)
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six shards of five samples."""
    return write(tmp_path, [[sample(PER_SHARD * s + i) for i in range(PER_SHARD)] for s in range(SHARDS)])


def read(folder: Path, **options: Any) -> list[Batch]:
    return list(load_shards(folder, SIZE, 4, mean=CLIP_MEAN, **options))


def keys(batches: Sequence[Batch]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (3, 2)])
def test_every_sample_comes_once_an_epoch(
    ranks: int, workers: int, shuffle: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all ranks and workers together: none is missing and none comes twice, in any epoch."""
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    for epoch in (0, 1):
        seen: Counter[str] = Counter()
        for rank in range(ranks):
            monkeypatch.setenv("RANK", str(rank))
            seen.update(keys(read(folder, workers=workers, shuffle=shuffle, epoch=epoch)))
        assert seen == Counter({sample_key(i): 1 for i in range(SHARDS * PER_SHARD)})


def test_the_order_is_of_seed_and_epoch_alone(folder: Path) -> None:
    """The same seed and epoch give the same order, in this process and with workers; another epoch or seed another."""
    first = keys(read(folder, seed=1, epoch=0))
    assert first == keys(read(folder, seed=1, epoch=0)) != sorted(first)
    assert len({tuple(keys(read(folder, seed=seed, epoch=epoch))) for seed, epoch in ((1, 0), (1, 1), (2, 0))}) == 3
    torch.manual_seed(0)
    order = keys(read(folder, seed=1, workers=2))
    torch.manual_seed(9)
    assert order == keys(read(folder, seed=1, workers=2))
    assert keys(read(folder, shuffle=False)) == [sample_key(i) for i in range(SHARDS * PER_SHARD)]


def test_a_loader_can_be_read_again(folder: Path) -> None:
    """One loader object can be read twice: all samples once, each time."""
    loader = load_shards(folder, SIZE, 4, mean=CLIP_MEAN)
    for _ in range(2):
        assert sorted(keys(list(loader))) == [sample_key(i) for i in range(SHARDS * PER_SHARD)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2)])
def test_resampled_goes_on_for_ever(ranks: int, workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More readers than shards is no trouble, all samples come up, and readers do not draw the same shards."""
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    streams = []
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        loader = load_shards(folder, SIZE, 4, mean=CLIP_MEAN, resampled=True, workers=workers, shuffle=False)
        stream = iter(loader)
        streams.append([key for _ in range(40) for key in next(stream)["key"]])
        del stream
    assert all(len(stream) == 160 for stream in streams)
    assert {key for stream in streams for key in stream} == {sample_key(i) for i in range(SHARDS * PER_SHARD)}
    assert ranks == 1 or streams[0] != streams[1]


def test_fewer_shards_than_readers_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without a shard would wait, or train on nothing: the message says how many are needed."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(OvsegError, match=r"6 shards.*4 ranks x 2 workers.*min_shards.* 8"):
        load_shards(folder, SIZE, 4, mean=CLIP_MEAN, workers=2)
    assert load_shards(folder, SIZE, 4, mean=CLIP_MEAN, workers=2, resampled=True) is not None


def test_a_batch_is_its_contract(folder: Path) -> None:
    """Shapes, types, texts and noun ids that belong together; the last batch is short."""
    batches = read(folder, shuffle=False)
    assert [len(batch["key"]) for batch in batches] == [4] * 7 + [2]
    for batch in batches:
        number = len(batch["key"])
        assert batch["crop"].shape == (number, 3, SIZE, SIZE) and batch["crop"].dtype == torch.uint8
        assert batch["mask"].shape == (number, SIZE, SIZE) and batch["mask"].dtype == torch.bool
        assert batch["noun_id"].dtype == torch.int64 and batch["noun_id"].tolist() == [int(key) for key in batch["key"]]
        assert batch["text"] == [f"noun {int(key)}" for key in batch["key"]]


def test_the_mask_is_the_stored_one_and_never_a_colour(folder: Path) -> None:
    """Foreground pixels of exactly the fill color stay foreground, and the background is filled again from the mask."""
    for batch in read(folder, shuffle=False):
        assert batch["mask"][:, :, : SIZE // 2].all() and not batch["mask"][:, :, SIZE // 2 :].any()
        right = batch["crop"][:, :, :, SIZE // 2 + 2 :].float()
        color = torch.tensor(fill_color("mean", CLIP_MEAN)).float()
        assert (right - color[:, None, None]).abs().max() <= 1
    kept = read(folder, shuffle=False, fill="keep")[0]["crop"][:, :, :, SIZE // 2 + 2 :].float()
    assert kept.std() > 20


def test_a_sample_that_cannot_be_read_is_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shards of another tool have no mask: that is logged, and never guessed."""
    with (tmp_path / "00000.tar").open("wb") as stream, wds.TarWriter(stream) as tar:
        members = encode_sample(sample(1), 95)
        del members["mask.png"]
        tar.write(members)
        tar.write(encode_sample(sample(2), 95))
    (tmp_path / "sizes.json").write_text('{"00000.tar": 2}')
    assert keys(read(tmp_path)) == [sample_key(2)]
    assert "no_mask_png" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tar_stops_the_epoch(workers: int, folder: Path) -> None:
    """Going on would train on less than the user believes."""
    path = folder / "00003.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(OvsegError, match=r"ovseg-mine verify"):
        read(folder, workers=workers)


def test_shards_that_are_not_there_say_so(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(OvsegError, match=r"sizes\.json"):
        load_shards(tmp_path_factory.mktemp("empty"), SIZE, 4, mean=CLIP_MEAN)
    (folder / "00002.tar").unlink()
    with pytest.raises(OvsegError, match=r"00002\.tar"):
        load_shards(folder, SIZE, 4, mean=CLIP_MEAN)


def test_mined_shards_load(mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """What the step writes is what the loader reads: all of it."""
    counts = write_shards(
        mined.index,
        mined.coco.images,
        mined.proposals,
        mined.pairs,
        tmp_path / "s",
        runtime,
        ShardsOptions(min_shards=3),
    )
    batches = read(tmp_path / "s", workers=2)
    assert sorted(keys(batches)) == [sample_key(i) for i in range(counts["samples"])]
    assert all(batch["mask"].any((1, 2)).all() for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_every_batch_is_full_and_every_sample_comes_equally_often(folder: Path, workers: int) -> None:
    """Two epochs of 30 samples in batches of 4 from each reader, none short, nothing left out in the long run."""
    loader = load_shards(folder, SIZE, 4, mean=CLIP_MEAN, workers=workers, repeat=True, seed=3)
    batches = list(islice(loader, 60))
    assert {len(batch["key"]) for batch in batches} == {4}
    seen = Counter(keys(batches))
    assert len(seen) == SHARDS * PER_SHARD
    assert max(seen.values()) - min(seen.values()) <= 2
    again = load_shards(folder, SIZE, 4, mean=CLIP_MEAN, workers=workers, repeat=True, seed=3)
    assert keys(batches) == keys(list(islice(again, 60)))


def test_repeated_each_epoch_has_another_order(folder: Path) -> None:
    order = keys(list(islice(load_shards(folder, SIZE, 1, mean=CLIP_MEAN, repeat=True), 60)))
    assert sorted(order[:30]) == sorted(order[30:])
    assert order[:30] != order[30:]


def test_random_crops_are_the_same_for_the_same_seed(folder: Path) -> None:
    def first(seed: int, scale: float) -> Batch:
        loader = load_shards(folder, SIZE, 30, mean=CLIP_MEAN, shuffle=False, seed=seed, crop_scale=scale)
        return cast(Batch, next(iter(loader)))

    cropped, other_seed, uncropped = first(1, 0.5), first(2, 0.5), first(1, 1.0)
    assert torch.equal(cropped["mask"], first(1, 0.5)["mask"])
    assert not torch.equal(cropped["mask"], other_seed["mask"])
    assert not torch.equal(cropped["mask"], uncropped["mask"])


def test_a_sample_without_noun_id_is_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [[sample(0), sample(1, record={"noun": "star"})]])
    assert keys(read(tmp_path)) == [sample_key(0)]
    assert "noun_id is None" in caplog.text
