"""COCO's JSON files: what is in them, and what each broken one says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    assert [record["id"] for record in store.images(1, 9)] == [9]
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_files_in_other_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    whole = {"images": [{**IMAGE, "file_name": "Bär.jpg"}], "annotations": [CAPTION], "categories": []}
    (tmp_path / "c.json").write_bytes(json.dumps(whole, ensure_ascii=False).encode(encoding))
    store = open_coco(tmp_path / "c.json", tmp_path / "c.sqlite")
    assert [record["file_name"] for record in store.images()] == ["Bär.jpg"]
    result = {"image_id": 3, "segmentation": [], "score": 0.5}
    (tmp_path / "r.json").write_bytes(json.dumps([result]).encode(encoding))
    assert open_results(tmp_path / "r.json", tmp_path / "r.sqlite").annotations(3) == [result]


def test_json_lines_are_read_where_each_line_says_all(tmp_path: Path) -> None:
    """Results, and captions with the image's file; any other lines are said to be lines."""
    results: list[Any] = [{"image_id": i, "segmentation": [], "score": 0.5} for i in (3, 4, 3)]
    path = written(tmp_path / "r.jsonl", "\n".join(map(json.dumps, results)))
    assert open_results(path, tmp_path / "r.sqlite").annotations(3) == [results[0], results[2]]
    captions = [{"image_id": str(i), "file_name": f"{i}.jpg", "caption": f"text {k}"} for k, i in enumerate((3, 4, 3))]
    for number in (3, 1):
        path = written(tmp_path / "c.jsonl", "\n".join(map(json.dumps, captions[:number])) + "\n")
        store = open_coco(path, tmp_path / f"c{number}.sqlite")
        assert [record["file_name"] for record in store.images()] == ["3.jpg", "4.jpg"][:number]
        assert [record["caption"] for record in store.annotations(3)] == ["text 0", "text 2"][: number // 2 + 1]
    for lines in ([{"image_id": 3, "caption": "a"}] * 2, [{"images": [IMAGE], "annotations": [CAPTION]}] * 2):
        path = written(tmp_path / "d.jsonl", "\n".join(map(json.dumps, lines)))
        with pytest.raises(OvsegError, match=r"d\.jsonl"):
            open_coco(path, tmp_path / "d.sqlite")


def test_a_mistake_in_one_line_is_named_with_its_line(tmp_path: Path) -> None:
    line = json.dumps({"image_id": 3, "segmentation": []})
    for wrong, said in (
        ('{"image_id": 3}', "object 2 has no 'segmentation'"),
        ("{]", "line 2"),
        ('{"image_id": 3', "cut off"),
    ):
        path = written(tmp_path / "r.jsonl", f"{line}\n{wrong}")
        with pytest.raises(OvsegError, match=rf"r\.jsonl.*{said}"):
            open_results(path, tmp_path / "r.sqlite")


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"file_name": "a.jpg"}, {"file_name": "b.jpg"}, ["3", "a.jpg", "b.jpg"]),
        ({"file_name": "x/a.jpg"}, {"file_name": "y/a.jpg"}, ["3", "x/a.jpg", "y/a.jpg"]),
        ({"width": 640, "height": 480}, {"width": 480, "height": 640}, ["3", "640 x 480", "480 x 640"]),
        ({"width": 640, "height": 480}, {"width": "640", "height": 481}, ["640 x 480", "640 x 481"]),
    ],
)
def test_an_id_of_two_images_is_an_error_that_names_both(
    first: Any, second: Any, named: list[str], tmp_path: Path
) -> None:
    images = [{**IMAGE, **first}, {"id": 4, "file_name": "c.jpg"}, {**IMAGE, "id": "3", **second}]
    path = written(tmp_path / "c.json", {"images": images, "annotations": [CAPTION]})
    with pytest.raises(OvsegError) as raised:
        open_coco(path, tmp_path / "c.sqlite")
    assert all(part in str(raised.value) for part in (str(path), *named))


def test_an_id_of_two_categories_is_an_error_that_names_both(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "dog"}, {"id": 1.0, "name": "cat"}]
    path = written(tmp_path / "c.json", {"images": [IMAGE], "annotations": [CAPTION], "categories": categories})
    with pytest.raises(OvsegError, match=r"c\.json.*1 .*'dog'.*'cat'"):
        open_coco(path, tmp_path / "c.sqlite")


def test_what_is_listed_twice_alike_is_one(tmp_path: Path) -> None:
    """Fields that do not tell images apart may differ or lack, and names may be written in two ways."""
    images = [
        {**IMAGE, "width": 640, "height": 480},
        {**IMAGE, "license": 2},
        {**IMAGE, "file_name": "./a.jpg", "width": "640", "height": 480.0},
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 1, "name": "dog", "supercategory": "animal"}]
    path = written(tmp_path / "c.json", {"images": images, "annotations": [CAPTION], "categories": categories})
    store = open_coco(path, tmp_path / "c.sqlite")
    assert list(store.images()) == [images[0]] and store.categories() == {1: categories[0]}


@given(number=st.integers(-(2**62), 2**62), spelling=st.sampled_from(["{}", "{:08d}", "{}.0", " {} "]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_are_numbers_in_every_spelling(number: int, spelling: str, tmp_path: Path) -> None:
    """Of images, of annotations, of categories and of the segments of panoptic files."""
    text = spelling.format(number)
    segments = [{"id": text, "category_id": text}]
    whole = {
        "images": [{"id": text, "file_name": "a.jpg", "width": "3", "height": 4.0}],
        "annotations": [
            {"id": text, "image_id": number, "category_id": text, "iscrowd": "0", "segments_info": segments}
        ],
        "categories": [{"id": text, "name": "dog"}],
    }
    (tmp_path / "c.sqlite").unlink(missing_ok=True)
    store = open_coco(written(tmp_path / "c.json", whole), tmp_path / "c.sqlite")
    assert list(store.images()) == [{"id": number, "file_name": "a.jpg", "width": 3, "height": 4}]
    (annotation,) = store.annotations(number)
    assert {annotation[name] for name in ("id", "image_id", "category_id")} == {number} and annotation["iscrowd"] == 0
    assert annotation["segments_info"] == [{"id": number, "category_id": number}]
    assert store.category_uses() == [(number, 1)] and list(store.categories()) == [number]


def test_images_of_lvis_have_the_name_in_their_url(tmp_path: Path) -> None:
    image = {"id": 3, "coco_url": "http://images.cocodataset.org/val2017/000000000003.jpg"}
    path = written(tmp_path / "c.json", {"images": [image], "annotations": [CAPTION]})
    (record,) = open_coco(path, tmp_path / "c.sqlite").images()
    assert record["file_name"] == "000000000003.jpg"
