"""Shards as other tools write them: odd keys, several captions, members in any order, cut tars; nothing is lost in silence."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.images import read_bytes
from ovseg.core.options import IndexOptions
from ovseg.datasets.store import Store
from ovseg.datasets.tar_members import normalize_name
from ovseg.datasets.webdataset import image_id, open_shards
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from tests.datasets.test_webdataset import jpeg, tar

Members = list[tuple[str, bytes]]


def opened(folder: Path, members: Members, name: str = "a.tar") -> Store:
    tar(folder / name, members)
    return open_shards(folder, folder / "s.sqlite")


def captions(store: Store, key: str) -> list[str]:
    return [record["caption"] for record in sorted(store.annotations(image_id(key)), key=lambda record: record["id"])]


def reasons(store: Store) -> dict[str, int]:
    return {reason: number for reason, (number, _) in store.left_out().items()}


def keys(store: Store, *expected: str) -> bool:
    return [record["id"] for record in store.images()] == sorted(map(image_id, expected))


@pytest.mark.parametrize(
    "members",
    [
        ["./000007.jpg", "./000007.txt"],
        ["000007.jpg", "./000007.txt"],
        [".//000007.JPG", "000007.TXT"],
        ["/000007.jpeg", "000007.caption"],
        ["x/../000007.webp", "000007.txt"],
        [".\\000007.jpg", "000007.txt"],
    ],
)
def test_a_key_is_the_same_however_its_path_is_written(tmp_path: Path, members: list[str]) -> None:
    store = opened(tmp_path, [(members[0], jpeg()), (members[1], b"seven")])
    assert keys(store, "7") and captions(store, "7") == ["seven"] and reasons(store) == {}


def test_keys_with_dots_are_told_apart_by_their_captions(tmp_path: Path) -> None:
    """`v1.0.jpg` and `v1.1.jpg` share what webdataset takes for the key; each has its own caption."""
    store = opened(
        tmp_path,
        [
            ("v1.0.jpg", jpeg(0)),
            ("v1.0.txt", b"zero"),
            ("v1.1.jpg", jpeg(1)),
            ("v1.1.txt", b"one"),
            ("v1.jpg", jpeg(2)),
        ],
    )
    assert keys(store, "v1.0", "v1.1", "v1")
    assert captions(store, "v1.0") == ["zero"] and captions(store, "v1.1") == ["one"] and captions(store, "v1") == []


def test_what_is_beside_an_image_is_no_image(tmp_path: Path) -> None:
    """A mask of the same key, in whatever order, is counted and does not take the place of the photograph."""
    store = opened(
        tmp_path,
        [
            ("1.png", jpeg()),
            ("1.jpg", jpeg(1)),
            ("1.txt", b"one"),
            ("2.mask.png", jpeg()),
            ("2.jpg", jpeg(2)),
            ("2.txt", b"two"),
        ],
    )
    assert keys(store, "1", "2") and reasons(store) == {"member_extra_image": 2}
    assert [record["member"] for record in store.images()] == ["1.jpg", "2.jpg"]


def test_an_image_and_a_caption_with_names_of_their_own_are_one_sample(tmp_path: Path) -> None:
    store = opened(
        tmp_path, [("5.image.jpg", jpeg()), ("5.caption.txt", b"five"), ("5.meta.json", b'{"caption": "no"}')]
    )
    assert keys(store, "5") and captions(store, "5") == ["five"] and reasons(store) == {}


def test_captions_that_could_belong_to_several_images_are_not_guessed(tmp_path: Path) -> None:
    store = opened(
        tmp_path,
        [("3.left.jpg", jpeg()), ("3.right.jpg", jpeg()), ("3.txt", b"three"), ("4.jpg", jpeg()), ("4.txt", b"4")],
    )
    assert keys(store, "4") and reasons(store) == {"member_ambiguous": 2, "member_caption_alone": 1}


SEVERAL: dict[str, Members] = {
    "lines": [("1.txt", b"a cat\n\na dog\r\na bird\n")],
    "members": [("1.2.txt", b"a bird"), ("1.txt", b"a cat"), ("1.1.txt", b"a dog")],
    "list": [("1.json", b'{"caption": ["a cat", "a dog", "a bird"]}')],
    "captions": [("1.json", b'{"captions": [{"caption": "a cat"}, "a dog", {"caption": "a bird"}], "url": "x"}')],
    "bare list": [("1.json", b'["a cat", "a dog", "a bird", "a cat"]')],
}


@pytest.mark.parametrize("members", SEVERAL.values(), ids=SEVERAL.keys())
def test_several_captions_of_a_sample_are_several_captions(tmp_path: Path, runtime: Runtime, members: Members) -> None:
    store = opened(tmp_path, [*members, ("1.jpg", jpeg())])
    assert sorted(captions(store, "1")) == ["a bird", "a cat", "a dog"] and captions(store, "1")[0] == "a cat"
    counts = build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=tmp_path))
    assert counts == {"images": 1, "captions": 3}
    (row,) = tables.rows(tmp_path / "out", "index", ["captions"])
    assert [caption["text"] for caption in row["captions"]] == captions(store, "1")


def test_what_is_read_no_further_is_counted_with_an_example(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Other members, captions without an image, repeated members and images: each has its reason in step.json."""
    tar(
        tmp_path / "a.tar",
        [
            *[("1.jpg", jpeg(1)), ("1.txt", b"one"), ("1.cls", b"5"), ("1.npy", b"\x93NUMPY"), ("README", b"hello")],
            *[("2.txt", b"no image"), ("3.jpg", jpeg(3)), ("3.txt", b"three"), ("3.txt", b"other"), ("3.jpg", jpeg(4))],
            *[("._1.jpg", b"\0\5\26\7"), ("__MACOSX/1.jpg", b"x"), (".DS_Store", b"x")],
        ],
    )
    counts = build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=tmp_path))
    assert counts == {
        "images": 2,
        "captions": 2,
        "dropped.member_not_read": 3,
        "dropped.member_caption_alone": 1,
        "dropped.member_repeated": 1,
        "dropped.duplicate_key": 1,
    }
    assert tables.read_counts(tmp_path / "out") == counts
    assert all(example in caplog.text for example in ("a.tar: 1.cls", "a.tar: 2.txt", "a.tar: 3.txt"))


def test_members_of_every_sample_do_not_stop_the_step(tmp_path: Path, runtime: Runtime) -> None:
    """A dataset with three more members per sample than are read is no dataset that was mostly dropped."""
    members = [
        (f"{i}.{suffix}", jpeg(i) if suffix == "jpg" else b"a")
        for i in range(5)
        for suffix in ("jpg", "txt", "cls", "a", "b")
    ]
    tar(tmp_path / "a.tar", members)
    counts = build_index(tmp_path / "out", runtime, IndexOptions(images=tmp_path, captions=tmp_path))
    assert counts["images"] == 5 and counts["dropped.member_not_read"] == 15


def test_links_are_the_files_that_they_point_to(tmp_path: Path) -> None:
    """Hard and symbolic links, forward and backward; a link that leads out of the tar is counted."""
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        for name, kind, target in (("x/2.jpg", tarfile.SYMTYPE, "../1.jpg"), ("4.jpg", tarfile.SYMTYPE, "/data/4.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            out.addfile(info)
        for name, data in (("1.jpg", jpeg()), ("1.txt", b"one")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("3.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, "1.jpg"
        out.addfile(info)
    store = open_shards(tmp_path, tmp_path / "s.sqlite")
    assert keys(store, "1", "x/2", "3") and reasons(store) == {"member_link": 1}
    for record in store.images():
        assert read_bytes(tmp_path, "a.tar", record["offset"], record["size"]) == jpeg()


@given(st.permutations([f"{i}.{suffix}" for i in (1, 2, 30) for suffix in ("jpg", "txt", "json")]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_members_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    content = {"txt": "caption {}", "json": '{{"caption": "no {}"}}'}
    members = []
    for name in order:
        number, suffix = name.split(".")
        members.append((name, jpeg(int(number)) if suffix == "jpg" else content[suffix].format(number).encode()))
    store = opened(folder, members)
    assert keys(store, "1", "2", "30") and reasons(store) == {}
    for record in store.images():
        assert captions(store, str(record["id"])) == [f"caption {record['id']}"]
        assert read_bytes(folder, "a.tar", record["offset"], record["size"]) == jpeg(record["id"])


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_tar_that_is_cut_anywhere_says_so(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Wherever the bytes end, what is whole is read, and a record or a count says that something is missing."""
    folder = tmp_path_factory.mktemp("cut")
    path = tar(
        folder / "a.tar",
        [(f"{i}.{suffix}", jpeg(i) if suffix == "jpg" else b"a") for i in range(3) for suffix in ("jpg", "txt")],
    )
    whole = path.read_bytes()
    content = len(whole.rstrip(b"\0"))
    path.write_bytes(whole[: data.draw(st.integers(600, content + 512))])
    store = open_shards(folder, folder / "s.sqlite")
    problems = [record["problem"] for record in store.images() if "problem" in record]
    assert problems in (["truncated_tar"], ["damaged_tar"])


@pytest.mark.parametrize("position", [0, 1])
def test_a_damaged_header_is_not_the_end(tmp_path: Path, position: int) -> None:
    """tarfile itself stops at such a header as if the tar ended there."""
    path = tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("2.jpg", jpeg()), ("3.jpg", jpeg())])
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as whole:
        headers = [member.offset for member in whole]
    data[headers[1 + position] + 100] ^= 0xFF
    path.write_bytes(data)
    store = open_shards(tmp_path, tmp_path / "s.sqlite")
    assert [record.get("problem") for record in store.images()].count("damaged_tar") == 1
    assert store.count() == 2 + position


def test_tars_that_were_joined_by_cat_are_noticed(tmp_path: Path) -> None:
    """Readers stop at the first end mark; the second tar is not passed over in silence."""
    first = tar(tmp_path / "a.tar", [("1.jpg", jpeg())]).read_bytes()
    second = tar(tmp_path / "a.tar", [("2.jpg", jpeg())]).read_bytes()
    (tmp_path / "a.tar").write_bytes(first + second)
    store = open_shards(tmp_path, tmp_path / "s.sqlite")
    assert sorted(str(record.get("problem")) for record in store.images()) == ["None", "damaged_tar"]


def test_files_of_file_systems_are_no_shards_and_compressed_ones_are_counted(tmp_path: Path) -> None:
    (tmp_path / "._a.tar").write_bytes(b"\0\5\26\7" * 200)
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    (tmp_path / "a_stats.json").write_text("{}")
    store = opened(tmp_path, [("1.jpg", jpeg()), ("1.txt", b"one")], "A.TAR")
    assert [record.get("problem") for record in store.images() if record["file_name"] != "A.TAR"] == ["compressed_tar"]


def test_a_folder_whose_subfolders_hold_the_shards_says_which(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    tar(tmp_path / "train" / "a.tar", [("1.jpg", jpeg())])
    with pytest.raises(OvsegError, match="train/"):
        open_shards(tmp_path, tmp_path / "s.sqlite")


@given(st.lists(st.sampled_from(["a", ".", "", "b.c", ".."]), min_size=1, max_size=6))
def test_a_normal_name_stays_as_it_is(parts: list[str]) -> None:
    name = normalize_name("/".join(parts))
    assert normalize_name(name) == normalize_name(f"./{name}") == name
    assert not {"", ".", ".."} & set(name.split("/")) or not name


def test_a_json_without_a_caption_gives_none(tmp_path: Path) -> None:
    members = [
        (f"{i}.json", json.dumps(value).encode())
        for i, value in enumerate([None, 5, {"url": "x"}, {"caption": ["", " "]}])
    ]
    store = opened(tmp_path, [*members, *((f"{i}.jpg", jpeg(i)) for i in range(4))])
    assert [captions(store, str(i)) for i in range(4)] == [[], [], [], []]
