"""COCO's JSON files: what is in them, and what each broken one says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovseg.core.errors import OvsegError
from ovseg.datasets.coco import open_coco, open_results

IMAGE = {"id": 3, "file_name": "a.jpg"}
CAPTION = {"image_id": 3, "id": 30, "caption": "a dog"}


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_everything_comes_back_by_image(tmp_path: Path) -> None:
    """Images in the order of their ids, the annotations of each in the order of the file, categories by id."""
    whole = {
        "info": {"images": "a trap"},
        "images": [{"id": 9, "file_name": "b.jpg"}, IMAGE, IMAGE],
        "annotations": [
            CAPTION,
            {"image_id": 9, "caption": "b"},
            {"image_id": 3, "caption": "ein Bär 😀"},
            {"image_id": 5},
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    store = open_coco(written(tmp_path / "c.json", whole), tmp_path / "c.sqlite")
    assert [record["file_name"] for record in store.images()] == ["a.jpg", "b.jpg"]
    assert [record["id"] for record in store.images(1, 2)] == [9]
    assert [record["caption"] for record in store.annotations(3)] == ["a dog", "ein Bär 😀"]
    assert store.annotations(4) == [] and store.count() == 2
    assert store.categories() == {1: {"id": 1, "name": "dog"}}


def test_the_copy_is_made_once(tmp_path: Path) -> None:
    """The database is used as it is when it is there, and a failed one leaves nothing behind."""
    path = written(tmp_path / "c.json", {"images": [IMAGE], "annotations": [CAPTION]})
    open_coco(path, tmp_path / "d" / "c.sqlite")
    written(path, {"images": [IMAGE, {"id": 4, "file_name": "b"}], "annotations": [CAPTION]})
    assert open_coco(path, tmp_path / "d" / "c.sqlite").count() == 1
    with pytest.raises(OvsegError):
        open_coco(written(path, "{"), tmp_path / "e" / "c.sqlite")
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a#b", "a%41b", "a?b", "ä"])
def test_a_folder_of_any_name_can_hold_the_copy(name: str, tmp_path: Path) -> None:
    """The database is opened by its path, whatever signs that holds."""
    path = written(tmp_path / "c.json", {"images": [IMAGE], "annotations": [CAPTION]})
    assert open_coco(path, tmp_path / name / "c.sqlite").count() == 1
    assert [p.name for p in (tmp_path / name).iterdir()] == ["c.sqlite"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "broken JSON"),
        ("hello", "broken JSON"),
        ('{"images": [{"id": 3, "file_name": "a.j', "cut off"),
        ('{"images": [{"id": 3, "file_name": "a.jpg"}], "annotations": [', "cut off"),
        ("\x00\x01", "broken JSON"),
        ({"images": [IMAGE]}, ": annotations missing or empty"),
        ({"annotations": [CAPTION], "images": []}, ": images missing or empty"),
        ({"a": 1, "b": {"images": [IMAGE]}}, "top-level keys: a, b"),
        ([CAPTION], "images and annotations missing or empty"),
        ("7", "top-level keys: none"),
        ({"images": [{"file_name": "a.jpg"}], "annotations": [CAPTION]}, r"images.item\[0\] has no 'id'"),
        ({"images": [IMAGE, 7], "annotations": [CAPTION]}, r"images.item\[1\] has no 'id'"),
        ({"images": [IMAGE], "annotations": [{"caption": "a"}]}, "has no 'image_id'"),
        ({"images": [{**IMAGE, "id": "a"}], "annotations": [CAPTION]}, "id 'a'"),
        ({"images": [{**IMAGE, "id": None}], "annotations": [CAPTION]}, "id None"),
        ({"images": [{**IMAGE, "id": 1e30}], "annotations": [CAPTION]}, r"id 1e\+30"),
        ({"images": [{**IMAGE, "id": [3]}], "annotations": [CAPTION]}, r"id \[3\]"),
        ({"images": [IMAGE], "annotations": [{**CAPTION, "image_id": 1.5}]}, "image_id 1.5"),
    ],
)
def test_a_file_that_is_not_coco_is_an_error_with_its_place(content: Any, part: str, tmp_path: Path) -> None:
    """Truncated, not JSON, another layout, wrong types: one sentence with the file and the place."""
    path = written(tmp_path / "c.json", content)
    with pytest.raises(OvsegError, match=part) as raised:
        open_coco(path, tmp_path / "c.sqlite")
    assert str(path) in str(raised.value)


def test_a_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(json.dumps({"images": [IMAGE]}).replace("a.jpg", "\u00e4").encode("latin-1"))
    with pytest.raises(OvsegError, match=r"UTF-8|broken JSON"):
        open_coco(path, tmp_path / "c.sqlite")


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"gone\.json"):
        open_coco(tmp_path / "gone.json", tmp_path / "c.sqlite")
    with pytest.raises(OvsegError, match="folder"):
        open_results(tmp_path, tmp_path / "c.sqlite")


def test_ids_written_as_text_are_numbers(tmp_path: Path) -> None:
    """Some tools write "000003" for 3."""
    whole = {"images": [{**IMAGE, "id": "000003"}], "annotations": [{**CAPTION, "image_id": "3"}]}
    store = open_coco(written(tmp_path / "c.json", whole), tmp_path / "c.sqlite")
    assert len(store.annotations(3)) == store.count() == 1


def test_names_of_categories_are_read_in_their_normal_form(tmp_path: Path) -> None:
    names = ["cafe\u0301", "salt &amp;amp; pepper", "traffic\u00a0light", "dog\u2019s bowl\u200b"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    whole = {"images": [IMAGE], "annotations": [CAPTION], "categories": categories}
    store = open_coco(written(tmp_path / "c.json", whole), tmp_path / "c.sqlite")
    expected = ["caf\u00e9", "salt & pepper", "traffic light", "dog's bowl"]
    assert [record["name"] for record in store.categories().values()] == expected


def test_results_are_a_list(tmp_path: Path) -> None:
    """A results file is read by image; an empty one, a COCO file or a list of something else is said to be none."""
    result = {"image_id": 3, "segmentation": {"size": [1, 1], "counts": [0, 1]}, "score": 0.5}
    store = open_results(written(tmp_path / "r.json", [result]), tmp_path / "r.sqlite")
    assert store.annotations(3) == [result]
    wrong: list[Any] = [[], {}, {"images": [IMAGE], "annotations": [CAPTION]}]
    for content in wrong:
        with pytest.raises(OvsegError, match=r"x\.json"):
            open_results(written(tmp_path / "x.json", content), tmp_path / "x.sqlite")
    with pytest.raises(OvsegError, match=r"item\[0\] has no 'segmentation'"):
        open_results(written(tmp_path / "x.json", [{"image_id": 3}]), tmp_path / "x.sqlite")
