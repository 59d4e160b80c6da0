"""Shards of image + caption in img2dataset's layout, read in place; and the index made from them and from folders."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.images import decode_image, read_bytes
from ovseg.core.options import IndexOptions
from ovseg.datasets.webdataset import image_id, open_shards
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index


def jpeg(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def indexed(folder: Path, out: Path, runtime: Runtime) -> dict[int, dict[str, Any]]:
    build_index(out, runtime, IndexOptions(images=folder, captions=folder))
    return {row["image_id"]: row for row in tables.rows(out, "index")}


def test_img2datasets_layout_is_read_in_place(tmp_path: Path, runtime: Runtime) -> None:
    """Images keep their key as number; captions come from .txt, or from the JSON where there is none."""
    tar(
        tmp_path / "00000.tar",
        [("000000000.jpg", jpeg(0)), ("000000000.json", b'{"caption": "no"}'), ("000000000.txt", b"a dog")],
    )
    tar(
        tmp_path / "00001.tar",
        [("000010000.webp", jpeg(1)), ("000010000.json", json.dumps({"caption": "ein Bär"}).encode())],
    )
    rows = indexed(tmp_path, tmp_path / "out", runtime)
    assert [[c["text"] for c in rows[i]["captions"]] for i in (0, 10000)] == [["a dog"], ["ein Bär"]]
    for number, i in enumerate((0, 10000)):
        row = rows[i]
        data = read_bytes(tmp_path, row["file"], row["offset"], row["size"])
        assert data == jpeg(number) and (row["width"], row["height"]) == (30, 20) and row["problem"] is None
        assert decode_image(data).shape == (20, 30, 3)


def test_dotted_folders_and_names_are_keys(tmp_path: Path) -> None:
    """The key ends at the first dot of the name, not of the folder, as webdataset has it."""
    tar(
        tmp_path / "a.tar",
        [("v1.0/x.y/7.jpg", jpeg()), ("v1.0/x.y/7.txt", b"seven"), ("v1.0/z/7.jpg", jpeg()), ("v1.0/z/7.txt", b"z")],
    )
    store = open_shards(tmp_path, tmp_path / "s.sqlite")
    assert [a["caption"] for a in store.annotations(image_id("v1.0/x.y/7"))] == ["seven"]
    assert [a["caption"] for a in store.annotations(image_id("v1.0/z/7"))] == ["z"]
    assert store.count() == 2


def test_keys_become_numbers() -> None:
    """Digits are the number itself; anything else is hashed into 60 bits, the same on every machine."""
    assert image_id("000123") == 123
    assert image_id("a") == int("ca978112ca1bbdc", 16)
    assert all(0 <= image_id(key) < 2**63 for key in ("9" * 30, "٣", "bär", "\udcff"))
    assert image_id("9" * 30) != image_id("9" * 31)


def test_a_truncated_tar_gives_what_it_holds(tmp_path: Path, runtime: Runtime) -> None:
    """What is whole is used; the image that is cut off and the rest of the tar are recorded, and counted."""
    path = tar(
        tmp_path / "a.tar",
        [("1.jpg", jpeg(1)), ("1.txt", b"one"), ("2.jpg", jpeg(2)), ("2.txt", b"two"), ("3.jpg", jpeg(3))],
    )
    rows = indexed(tmp_path, tmp_path / "whole", runtime)
    path.write_bytes(path.read_bytes()[: rows[2]["offset"] + rows[2]["size"] // 2])
    counts = build_index(tmp_path / "cut", runtime, IndexOptions(images=tmp_path, captions=tmp_path))
    rows = {row["image_id"]: row for row in tables.rows(tmp_path / "cut", "index")}
    assert rows[1]["problem"] is None and rows[2]["problem"] == "truncated"
    assert counts["images"] == 1 and counts["dropped.truncated_tar"] == 1 and counts["dropped.truncated"] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_tar"),
        (bytes(10240), "empty_tar"),
        (b"not a tar" * 100, "not_a_tar"),
        (b"x", "not_a_tar"),
        (gzip.compress(b"x" * 5000, mtime=0), "compressed_tar"),
        (bz2.compress(b"x" * 5000), "compressed_tar"),
    ],
)
def test_a_file_that_is_no_tar_is_counted_with_its_reason(
    data: bytes, reason: str, tmp_path: Path, runtime: Runtime
) -> None:
    """Another shard's images are used all the same; a compressed tar has no places to read at."""
    tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.txt", b"one")])
    (tmp_path / "b.tar").write_bytes(data)
    rows = indexed(tmp_path, tmp_path / "out", runtime)
    assert Counter(row["problem"] for row in rows.values()) == {None: 1, reason: 1}
    assert any("b.tar" in (row["detail"] or "") for row in rows.values())


def test_a_compressed_tar_is_not_read_at_wrong_places(tmp_path: Path) -> None:
    packed = gzip.compress(tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.txt", b"one")]).read_bytes())
    (tmp_path / "a.tar").write_bytes(packed)
    with pytest.raises(OvsegError, match=r"a\.tar is compressed by gzip"):
        open_shards(tmp_path, tmp_path / "s.sqlite")
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(OvsegError, match=r"a\.tar\.gz"):
        open_shards(tmp_path, tmp_path / "s.sqlite")


def test_a_repeated_key_keeps_its_first_image_and_caption(tmp_path: Path, runtime: Runtime) -> None:
    """Two shards with the same key: the first image keeps its own caption alone, the second is counted as dropped."""
    for name, seed in (("a", 1), ("b", 2)):
        tar(tmp_path / f"{name}.tar", [("7.jpg", jpeg(seed)), ("7.txt", f"caption {name}".encode())])
    counts = build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=tmp_path))
    rows = {row["image_id"]: row for row in tables.rows(tmp_path / "out", "index")}
    assert rows[7]["file"] == "a.tar" and [c["text"] for c in rows[7]["captions"]] == ["caption a"]
    assert counts["images"] == 1 and counts["dropped.duplicate_key"] == 1


def test_odd_captions_do_no_harm(tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Half an emoji in JSON, JSON that is none or has no caption, text that is not Unicode: read, or counted and named."""
    odd = [b"\xe9 dog", b'{"caption": "dog \\ud83d"}', b"{", b"[]", b'{"caption": null}', "ein Bär".encode("utf-16")]
    members = []
    for number, data in enumerate(odd):
        members += [(f"{number}.jpg", jpeg()), (f"{number}.{'txt' if number in (0, 5) else 'json'}", data)]
    tar(tmp_path / "a.tar", members)
    rows = indexed(tmp_path, tmp_path / "out", runtime)
    texts = [[c["text"] for c in rows[number]["captions"]] for number in range(6)]
    assert texts == [[], ["dog ?"], [], [], [], ["ein Bär"]]
    counts = tables.read_counts(tmp_path / "out")
    assert counts["dropped.member_not_text"] == counts["dropped.member_json_malformed"] == 1
    assert counts["images_without_caption"] == 4 and counts["images"] == 6
    assert "0.txt" in caplog.text and "2.json" in caplog.text


def test_a_folder_without_shards_or_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=re.escape(str(tmp_path))):
        open_shards(tmp_path, tmp_path / "s.sqlite")
    tar(tmp_path / "a.tar", [("1.txt", b"one")])
    with pytest.raises(OvsegError, match=r"\.jpg.*\.webp"):
        open_shards(tmp_path, tmp_path / "s.sqlite")


def coco_folder(folder: Path, names: list[str], captions: list[Any] | None = None) -> Path:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, start=1)]
    texts = captions or ["a dog"] * len(names)
    annotations = [{"image_id": i, "id": i, "caption": text} for i, text in enumerate(texts, start=1)]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path


def test_the_index_records_what_cannot_be_used(tmp_path: Path, runtime: Runtime) -> None:
    """Missing, unsafe, empty, not an image, a folder, truncated: each is a row with its reason, and counted by it."""
    images = tmp_path / "images"
    (images / "folder").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (images / "good.jpg").write_bytes(jpeg())
    (images / "empty.jpg").touch()
    (images / "text.jpg").write_text("404")
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(stream, "PNG")
    (images / "cut.png").write_bytes(stream.getvalue()[:2000])
    names = [
        "good.jpg",
        "gone.jpg",
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "empty.jpg",
        "text.jpg",
        "folder",
        "cut.png",
    ]
    counts = build_index(tmp_path / "out", runtime, IndexOptions(images=images, captions=coco_folder(tmp_path, names)))
    rows = list(tables.rows(tmp_path / "out", "index"))
    assert [row["problem"] for row in rows] == [
        None,
        "missing",
        "unsafe_path",
        "unsafe_path",
        "zero_bytes",
        "not_an_image",
        "missing",
        "truncated",
    ]
    assert counts == {
        "images": 1,
        "captions": 1,
        "dropped.missing": 2,
        "dropped.unsafe_path": 2,
        "dropped.zero_bytes": 1,
        "dropped.not_an_image": 1,
        "dropped.truncated": 1,
    }
    assert rows[0]["sha256"] and rows[0]["size"] == len(jpeg())


def test_no_usable_image_is_an_error(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(OvsegError, match=r"2 .*missing.*a\.jpg"):
        build_index(
            tmp_path / "out",
            runtime,
            IndexOptions(images=tmp_path / "images", captions=coco_folder(tmp_path, ["a.jpg", "b.jpg"])),
        )
    with pytest.raises(OvsegError, match="gone"):
        build_index(
            tmp_path / "out2", runtime, IndexOptions(images=tmp_path / "gone", captions=tmp_path / "captions.json")
        )
    with pytest.raises(OvsegError, match=r"captions .* do not exist"):
        build_index(
            tmp_path / "out2", runtime, IndexOptions(images=tmp_path / "images", captions=tmp_path / "gone.json")
        )


def test_captions_that_are_no_text_are_left_out(tmp_path: Path, runtime: Runtime) -> None:
    """A caption that is null or a number is not one; ids that are no numbers are counted through; the order is by id."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    annotations = [
        {"image_id": 1, "id": 9, "caption": "nine"},
        {"image_id": 1, "id": 2, "caption": "two"},
        {"image_id": 1, "id": 1, "caption": None},
        {"image_id": 1, "id": 3, "caption": 7},
        {"image_id": 1, "id": "x", "caption": "text id"},
    ]
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}), encoding="utf-8"
    )
    build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=path))
    (row,) = tables.rows(tmp_path / "out", "index")
    assert [(c["id"], c["text"]) for c in row["captions"]] == [(2, "two"), (4, "text id"), (9, "nine")]


def test_an_index_that_is_made_again_sees_the_images_of_now(tmp_path: Path, runtime: Runtime) -> None:
    """DVC takes the output away and runs the step again when an image changed: the result is the new one."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    captions = coco_folder(tmp_path, ["a.jpg"])
    build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=captions))
    before = tables.fingerprint(tmp_path / "out", "index")
    (tmp_path / "a.jpg").write_bytes(jpeg(2))
    (tmp_path / "out").rename(tmp_path / "old")
    build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=captions))
    assert tables.fingerprint(tmp_path / "out", "index") != before


def test_shards_that_change_make_a_new_index(tmp_path: Path, runtime: Runtime) -> None:
    """A tar is padded, so another caption may leave its size as it was: that is noticed all the same."""
    tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.txt", b"one")])
    first = indexed(tmp_path, tmp_path / "out1", runtime)
    size = (tmp_path / "a.tar").stat().st_size
    tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.txt", b"two")])
    second = indexed(tmp_path, tmp_path / "out2", runtime)
    assert (tmp_path / "a.tar").stat().st_size == size
    assert [row[1]["captions"][0]["text"] for row in (first, second)] == ["one", "two"]


def test_a_limit_takes_the_first_by_id(tmp_path: Path, runtime: Runtime) -> None:
    names = [f"{i}.jpg" for i in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(jpeg())
    captions = coco_folder(tmp_path, names)
    assert (
        build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=captions, limit=2))["images"] == 2
    )
    assert [row["image_id"] for row in tables.rows(tmp_path / "out", "index")] == [1, 2]
    assert (
        build_index(tmp_path / "all", runtime, IndexOptions(images=tmp_path, captions=captions, limit=99))["images"]
        == 5
    )
