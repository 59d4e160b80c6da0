"""Shards: the sample contract, the same bytes every time, and what happens when samples fail."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.options import Fill, ShardsOptions
from ovseg.core.samples import MEMBERS, Sample, decode_sample, encode_sample, sample_key
from ovseg.engine.runtime import Runtime
from ovseg.mining.shards import CLIP_MEAN, bounds, write_shards
from ovseg.mining.verify import verify_shards
from tests.conftest import HEIGHT, WIDTH, Mined, digests

Row = dict[str, Any]


def shards_of(mined: Mined, out: Path, runtime: Runtime, images: Path | None = None, **options: Any) -> dict[str, int]:
    values: Row = {"min_shards": 3, **options}
    images = images or mined.coco.images
    return write_shards(mined.index, images, mined.proposals, mined.pairs, out, runtime, ShardsOptions(**values))


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        data = {}
        for member in opened:
            stream = opened.extractfile(member)
            assert stream is not None and member.mtime == 0 and member.uname in ("", "bigdata")
            data[member.name] = stream.read()
        return data


def raws(folder: Path) -> list[Row]:
    """Every sample of a folder as its raw members, grouped by key, in order."""
    samples: dict[str, Row] = {}
    for tar in sorted(folder.glob("*.tar")):
        for name, data in members(tar).items():
            key, _, suffix = name.partition(".")
            samples.setdefault(key, {"__key__": key})[suffix] = data
    return list(samples.values())


@pytest.mark.parametrize("background", ["mean", "zero", "keep"])
def test_a_sample_is_its_contract(background: Fill, mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """Crop, mask, text and record of every pair, each against its image, its mask and its caption."""
    shards_of(mined, tmp_path / "out", runtime, background=background, jpeg_quality=100)
    files = {row["image_id"]: row for row in tables.rows(mined.index, "index")}
    regions = {(r["image_id"], r["proposal"]): r for r in tables.rows(mined.proposals, "proposals")}
    pairs = list(tables.rows(mined.pairs, "pairs"))
    noun_ids = json.loads((tmp_path / "out" / "nouns.json").read_text(encoding="utf-8"))
    assert noun_ids == {noun: i for i, noun in enumerate(sorted({pair["noun"] for pair in pairs}))}
    samples = raws(tmp_path / "out")
    assert len(samples) == len(pairs)
    for pair, raw in zip(pairs, samples, strict=True):
        assert (
            set(raw) == {"__key__", *MEMBERS}
            and raw["__key__"] == sample_key(pair["pair"])
            and raw["__key__"].isdigit()
        )
        record, region = json.loads(raw["json"]), regions[pair["image_id"], pair["proposal"]]
        caption = next(c["text"] for c in files[pair["image_id"]]["captions"] if c["id"] == pair["caption_id"])
        assert raw["txt"].decode() == record["noun"] == pair["noun"] and record["noun_id"] == noun_ids[pair["noun"]]
        assert record["caption"] == caption and caption[record["start"] : record["end"]].lower().startswith(
            pair["noun"][:3]
        )
        assert record["box"] == region["box"] and record["area"] == region["area"]
        for name in ("image_id", "proposal", "source", "similarity", "margin", "caption_id"):
            assert record[name] == pair[name]
        x, y, w, h = region["box"]
        inside = masks.decode(region["rle"], HEIGHT, WIDTH)[y : y + h, x : x + w]
        mask = np.asarray(Image.open(io.BytesIO(raw["mask.png"])))
        assert np.array_equal(mask > 0, inside) and inside.sum() == region["area"]
        image = np.asarray(Image.open(mined.coco.images / files[pair["image_id"]]["file"]))[y : y + h, x : x + w]
        color = {"mean": np.round(255 * np.array(CLIP_MEAN)), "zero": np.zeros(3), "keep": None}[background]
        expected = image if color is None else np.where(inside[..., None], image, color)
        crop = np.asarray(Image.open(io.BytesIO(raw["jpg"]))).astype(int)
        assert np.abs(crop - expected).mean() < 2 and crop.shape == (h, w, 3)


def test_the_same_pairs_are_the_same_bytes(mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """In another folder, without the work that was finished before: every file, byte for byte."""
    shards_of(mined, tmp_path / "one", runtime)
    again = Runtime(workers=1, work=tmp_path / "work")
    shards_of(mined, tmp_path / "two", again)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    shards_of(mined, tmp_path / "other", runtime, jpeg_quality=50)
    assert digests(tmp_path / "one", "*.tar") != digests(tmp_path / "other", "*.tar")


@pytest.mark.parametrize("per_shard", [1, 2, 4096])
def test_shards_are_even_and_keys_unique(per_shard: int, mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """At most that many samples each, lengths that differ by one at most, keys in order over the whole set."""
    counts = shards_of(mined, tmp_path / "out", runtime, samples_per_shard=per_shard, min_shards=2)
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    number = sum(sizes.values())
    assert max(sizes.values()) <= max(per_shard, 1) and max(sizes.values()) - min(sizes.values()) <= 1
    assert list(sizes) == [f"{i:05d}.tar" for i in range(len(sizes))] and len(sizes) >= 2
    assert [raw["__key__"] for raw in raws(tmp_path / "out")] == [sample_key(i) for i in range(number)]
    assert counts == {"samples": number}
    assert "all sound" in verify_shards(tmp_path / "out")


def test_bounds_cover_every_pair_once() -> None:
    for number in range(1, 40):
        for shards in range(1, number + 1):
            edges = [bounds(number, shards, i) for i in range(shards)]
            assert edges[0][0] == 0 and edges[-1][1] == number
            assert all(a[1] == b[0] for a, b in itertools.pairwise(edges)) and all(a < b for a, b in edges)


def test_a_shard_without_a_sample_leaves_no_gap(mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """One pair a shard and an image that is gone: the tars are numbered without gaps, and the failures have their reasons."""
    images = Path(shutil.copytree(mined.coco.images, tmp_path / "images"))
    pairs = list(tables.rows(mined.pairs, "pairs"))
    lost = pairs[0]["image_id"]
    files = {row["image_id"]: row["file"] for row in tables.rows(mined.index, "index")}
    (images / files[lost]).unlink()
    counts = shards_of(mined, tmp_path / "out", runtime, images=images, samples_per_shard=1)
    kept = [pair for pair in pairs if pair["image_id"] != lost]
    assert counts == {"samples": len(kept), "dropped.missing": len(pairs) - len(kept)}
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == [f"{i:05d}.tar" for i in range(len(kept))]
    assert [raw["__key__"] for raw in raws(tmp_path / "out")] == [sample_key(pair["pair"]) for pair in kept]
    failed = [
        row
        for path in sorted((tmp_path / "out" / "failures").glob("*.parquet"))
        for row in tables.read_part(path, "samples").to_pylist()
    ]
    assert {row["pair"] for row in failed} == {p["pair"] for p in pairs} - {p["pair"] for p in kept}
    assert {row["status"] for row in failed} == {"missing"} and all(row["detail"] for row in failed)
    assert "all sound" in verify_shards(tmp_path / "out")


def test_nothing_written_is_an_error(mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(OvsegError, match=r"12 .*missing.*000005\.jpg"):
        shards_of(mined, tmp_path / "out", runtime, images=tmp_path / "images")
    assert not (tmp_path / "out").exists()


def sample(**changes: Any) -> Sample:
    rng = np.random.default_rng(0)
    mask = rng.random((7, 9)) > 0.5
    values: Row = {
        "key": sample_key(3),
        "crop": rng.integers(0, 256, (7, 9, 3), dtype=np.uint8),
        "mask": mask,
        "text": "ein Bär 😀",
    }
    return Sample(**{**values, "record": {"noun": "Bär", "noun_id": 1}, **changes})


def test_a_sample_comes_back_as_it_was() -> None:
    """Mask, text and record exactly; the crop as JPEG leaves it."""
    before = sample()
    after = decode_sample(encode_sample(before, 100))
    assert np.array_equal(after.mask, before.mask) and (after.key, after.text, after.record) == (
        before.key,
        before.text,
        before.record,
    )
    assert np.abs(after.crop.astype(int) - before.crop).mean() < 2
    smallest = sample(crop=np.zeros((1, 1, 3), np.uint8), mask=np.ones((1, 1), bool))
    assert decode_sample(encode_sample(smallest, 95)).mask.tolist() == [[True]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask.png": None}, "no_mask_png"),
        ({"jpg": None}, "no_jpg"),
        ({"txt": None}, "no_txt"),
        ({"json": None}, "no_json"),
        ({"jpg": b"x"}, "not_an_image"),
        ({"mask.png": b""}, "not_an_image"),
        ({"json": b"{"}, "json_malformed"),
        ({"json": b"7"}, "json_malformed"),
        ({"txt": b"\xff"}, "text_malformed"),
    ],
)
def test_a_broken_sample_says_why(change: Row, reason: str) -> None:
    raw = {name: value for name, value in (encode_sample(sample(), 95) | change).items() if value is not None}
    with pytest.raises(BadItem) as caught:
        decode_sample(raw)
    assert caught.value.reason == reason
    other = encode_sample(sample(), 95) | {
        "mask.png": encode_sample(sample(mask=np.ones((7, 8), bool)), 95)["mask.png"]
    }
    with pytest.raises(BadItem, match="mask_size"):
        decode_sample(other)


def test_the_licence_of_a_generator_goes_with_its_masks_into_the_shards(
    mined: Mined, tmp_path: Path, runtime: Runtime
) -> None:
    shards_of(mined, tmp_path / "plain", runtime)
    assert tables.licence(tmp_path / "plain", "samples") is None
    for path in tables.parts(mined.proposals):
        metadata = tables.check_part(path, "proposals")
        (tmp_path / "proposals").mkdir(exist_ok=True)
        tables.write_part(
            tmp_path / "proposals" / path.name,
            "proposals",
            tables.read_part(path, "proposals"),
            metadata["ovseg.fingerprint"],
            {tables.LICENCE: "cc-by-nc-4.0"},
        )
    work = Runtime(workers=1, work=tmp_path / "work")
    write_shards(
        mined.index,
        mined.coco.images,
        tmp_path / "proposals",
        mined.pairs,
        tmp_path / "out",
        work,
        ShardsOptions(min_shards=3),
    )
    assert tables.licence(tmp_path / "out", "samples") == "cc-by-nc-4.0"
    tars = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tar")} for name in ("plain", "out")]
    assert tars[0] == tars[1]
