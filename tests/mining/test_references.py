"""Ids that lead nowhere, ids that collide and sizes that disagree, through the steps that read them: said before any work."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.clip.adapted import load_adapted
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import IndexOptions, ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.evaluation.proposal_recall import measure_recall
from ovseg.mining.index import build_index
from ovseg.mining.propose import propose_masks
from tests.conftest import HEIGHT, WIDTH, Coco

Content = dict[str, Any]


@pytest.fixture
def content(coco: Coco) -> Content:
    """The instances of six small images."""
    return dict(json.loads(coco.instances.read_text(encoding="utf-8")))


@pytest.fixture
def index(coco: Coco, tmp_path: Path, runtime: Runtime) -> Path:
    build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=coco.captions))
    return tmp_path / "index"


@pytest.fixture
def propose(index: Path, coco: Coco, tmp_path: Path, runtime: Runtime) -> Callable[..., dict[str, int]]:
    """Runs `propose` with a source and JSON content, or with annotations beside the proposals of the instances."""

    def run(source: str, value: Any, max_dropped: float = 0.5) -> dict[str, int]:
        path, out = tmp_path / f"{source}.json", tmp_path / "out"
        path.write_text(json.dumps(value), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        options = ProposeOptions(source=source, path=path)
        if source == "annotations":
            options = ProposeOptions(source="ground_truth", path=coco.instances, annotations=path)
        return propose_masks(index, coco.images, out, replace(runtime, max_dropped=max_dropped), options)

    return run


def shifted(content: Content, by: int) -> Content:
    """The same annotations of images with other ids."""
    images = [{**record, "id": record["id"] + by} for record in content["images"]]
    annotations = [{**record, "image_id": record["image_id"] + by} for record in content["annotations"]]
    return {**content, "images": images, "annotations": annotations}


@pytest.mark.parametrize("source", ["ground_truth", "precomputed", "annotations"])
def test_masks_of_no_image_of_the_index_are_an_error_with_both_ids(
    source: str, content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    foreign = shifted(content, 1000)
    value = foreign["annotations"] if source == "precomputed" else foreign
    with pytest.raises(OvsegError, match=rf"{source}\.json: none of its 6 image ids.*1001, 1002.* 1, 2"):
        propose(source, value)


@pytest.mark.parametrize("source", ["ground_truth", "precomputed", "annotations"])
def test_some_masks_of_other_images_are_counted_and_named(
    source: str, content: Content, propose: Callable[..., dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    foreign = shifted(content, 1000)
    value = {name: content[name] + foreign[name] for name in ("images", "annotations")}
    value["categories"] = content["categories"]
    counts = propose(source, value["annotations"] if source == "precomputed" else value)
    assert counts["annotated_images_not_in_index" if source == "annotations" else "images_not_in_index"] == 6
    assert counts["proposals"] == len(content["annotations"]) and "1001, 1002" in caplog.text


def test_of_annotated_label_maps_the_seen_classes_of_a_table_are_stored(
    index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, content: Content
) -> None:
    """The split of seen and unseen classes holds for annotated pairs, too; 255 is no class."""
    maps, table = tmp_path / "maps", tmp_path / "classes.json"
    maps.mkdir()
    for image in content["images"]:
        labels = np.full((image["height"], image["width"]), 255, np.uint8)
        labels[:10], labels[10:20] = 3, 7
        Image.fromarray(labels).save(maps / f"{Path(image['file_name']).stem}.png")
    classes = [{"id": 3, "names": ["star", "asterisk"]}, {"id": 7, "names": ["key"], "seen": False}]
    table.write_text(json.dumps({"classes": classes}))
    options = ProposeOptions(source="ground_truth", path=coco.instances, annotations=maps, classes=str(table))
    counts = propose_masks(index, coco.images, tmp_path / "out", runtime, options)
    labels_stored = {row["label"] for row in tables.rows(tmp_path / "out", "proposals")}
    assert labels_stored == {None, "star"} and counts["annotated_masks"] == len(content["images"])


def test_a_table_of_other_images_is_an_error_too(
    index: Path, coco: Coco, tmp_path: Path, runtime: Runtime, content: Content
) -> None:
    propose_masks(
        index, coco.images, tmp_path / "own", runtime, ProposeOptions(source="ground_truth", path=coco.instances)
    )
    rows = [{**row, "image_id": row["image_id"] + 50} for row in tables.rows(tmp_path / "own", "proposals")]
    (tmp_path / "other").mkdir()
    tables.write_part(tmp_path / "other" / "00000.parquet", "proposals", rows, "f")
    options = ProposeOptions(source="precomputed", path=tmp_path / "other")
    with pytest.raises(OvsegError, match=r"other: none of its 6 image ids.*51, 52"):
        propose_masks(index, coco.images, tmp_path / "out", runtime, options)
    assert len(content["images"]) == 6


def test_the_same_id_for_another_image_is_an_error_that_names_both(
    content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    """Two files that both count from 1; folders, suffixes and prefixes of the names may differ."""
    renamed = [{**record, "file_name": f"train/COCO_{record['file_name'][:-3]}png"} for record in content["images"]]
    assert propose("ground_truth", {**content, "images": renamed})["proposals"] == len(content["annotations"])
    renamed[2]["file_name"] = "holiday.jpg"
    with pytest.raises(OvsegError, match=r"1 of 6 image ids.*3 is holiday\.jpg.*000003\.jpg"):
        propose("ground_truth", {**content, "images": renamed})


def with_categories(content: Content, change: Callable[[int], Any]) -> Content:
    annotations = [{**record, "category_id": change(record["category_id"])} for record in content["annotations"]]
    return {**content, "annotations": annotations}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i - 1, "1 too small"),
        (lambda i: i + 1, "1 too large"),
        (lambda i: i + 900, r"90\d"),
        (lambda i: f"thing {i}", "thing"),
        (lambda _: None, "None"),
    ],
)
def test_categories_that_are_not_in_the_list_are_an_error(
    change: Callable[[int], Any], said: str, content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    """Never masks without a class; as class-agnostic proposals, where classes do not matter, they are used."""
    wrong = with_categories(content, change)
    with pytest.raises(OvsegError, match=rf"annotations\.json.*categories.*{said}"):
        propose("annotations", wrong)
    assert propose("ground_truth", wrong)["proposals"] == len(content["annotations"])


def test_positions_in_a_list_with_gaps_are_told_from_ids(
    content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    """COCO's ids have gaps, and converters count from 0 or from 1."""
    categories = [{**record, "id": 10 * record["id"]} for record in content["categories"]]
    for start in (0, 1):
        changed = {**content, "categories": categories}
        wrong = with_categories(
            changed, [start - 1, start, start + 1, start + 2, start + 3, start + 4, start + 5].__getitem__
        )
        with pytest.raises(OvsegError, match=f"positions in the list, from {start}"):
            propose("annotations", wrong)


def test_one_unknown_category_is_counted_and_makes_no_proposal(
    content: Content, propose: Callable[..., dict[str, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    content["annotations"][0]["category_id"] = 77
    counts = propose("annotations", content)
    number = len(content["annotations"])
    assert counts["dropped.annotated_unknown_category"] == 1 and "77" in caplog.text
    assert counts["annotated_masks"] == number - 1 and counts["proposals"] == number
    (failure,) = tables.rows(tmp_path / "out" / "failures", "failures")
    assert failure["reason"] == "unknown_category" and "77" in failure["detail"]


def test_no_categories_are_an_error_where_classes_matter(
    content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    for value in ({**content, "categories": []}, {k: v for k, v in content.items() if k != "categories"}):
        with pytest.raises(OvsegError, match=r"annotations\.json names no categories"):
            propose("annotations", value)
        assert propose("ground_truth", value)["proposals"] > 0


def test_ids_as_text_are_those_numbers(content: Content, propose: Callable[..., dict[str, int]]) -> None:
    plain = propose("annotations", content)
    text = {
        "images": [{**record, "id": f"{record['id']:06d}"} for record in content["images"]],
        "annotations": [
            {**record, **{name: str(record[name]) for name in ("id", "image_id", "category_id", "iscrowd")}}
            for record in content["annotations"]
        ],
        "categories": [{**record, "id": str(record["id"])} for record in content["categories"]],
    }
    assert propose("annotations", text) == plain


def test_polygons_of_an_image_of_another_size_are_dropped(
    content: Content, propose: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    """They do not state the size that they were drawn on, but the list of images does; an RLE states its own."""
    x, y = WIDTH // 4, HEIGHT // 4
    polygon = [[x, y, 3 * x, y, 3 * x, 3 * y, x, 3 * y]]
    content["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    content["images"][1] |= {"width": HEIGHT, "height": WIDTH}
    rle = content["annotations"][0]["segmentation"]
    for segmentation, dropped in ((polygon, 2), ([[str(v) for v in polygon[0]]], 2), (rle, 0)):
        annotations = [{"image_id": i, "category_id": 1, "segmentation": segmentation} for i in range(1, 7)]
        counts = propose("ground_truth", {**content, "annotations": annotations})
        assert counts.get("dropped.mask_size", 0) == dropped and counts["proposals"] == 6 - dropped
        if dropped:
            failures = list(tables.rows(tmp_path / "out" / "failures", "failures"))
            assert f"{2 * WIDTH} x {2 * HEIGHT}" in failures[0]["detail"]


def test_an_exchanged_size_of_all_masks_is_an_error_that_says_so(
    content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    for record in content["annotations"]:
        record["segmentation"]["size"].reverse()
    for source, value in (("ground_truth", content), ("precomputed", content["annotations"])):
        with pytest.raises(OvsegError, match=r"rle_size.*image 1: .*height and width are exchanged"):
            propose(source, value)


def test_stray_points_beside_polygons_are_counted(content: Content, propose: Callable[..., dict[str, int]]) -> None:
    ring = [4, 4, 30, 4, 30, 30, 4, 30]
    for record in content["annotations"]:
        record["segmentation"] = [[1, 2], ring, []]
    number = len(content["annotations"])
    counts = propose("annotations", content)
    assert counts["annotated_rings_left_out"] == 2 * number and counts["annotated_masks"] == number


def test_nothing_but_malformed_polygons_is_an_error_with_an_example(
    content: Content, propose: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    """Whatever the limit is. More than half of the masks are an error, too, but for a higher limit."""
    number = len(content["annotations"])
    for record in content["annotations"]:
        record["segmentation"] = [[1, 2]]
    for max_dropped in (0.5, 1.0):
        with pytest.raises(OvsegError, match=rf"{number} were dropped .*polygon_malformed.*image 1: a polygon needs"):
            propose("ground_truth", content, max_dropped)
    assert not (tmp_path / "out").exists()
    content["annotations"][0]["segmentation"] = [[4, 4, 30, 4, 30, 30, 4, 30]]
    with pytest.raises(OvsegError, match=f"{number - 1} of {number} proposals.*polygon_malformed"):
        propose("ground_truth", content)
    assert propose("ground_truth", content, 1.0)["proposals"] == 1


def test_annotated_masks_are_judged_apart_from_proposals(
    content: Content, propose: Callable[..., dict[str, int]]
) -> None:
    """However many proposals there are, annotations of which none can be used are an error."""
    for record in content["annotations"]:
        record["segmentation"] = [[1, 2]]
    with pytest.raises(OvsegError, match=r"no annotated masks.*annotated_polygon_malformed"):
        propose("annotations", content, 1.0)


def write_captions(path: Path, images: list[Content], annotations: list[Content]) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path


def test_captions_of_images_that_are_not_listed(
    coco: Coco, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them are an error, some of them a count; both name ids."""
    caplog.set_level(logging.WARNING)
    captions = json.loads(coco.captions.read_text(encoding="utf-8"))
    foreign = [{**record, "image_id": record["image_id"] + 300} for record in captions["annotations"]]
    path = write_captions(tmp_path / "all.json", captions["images"], foreign)
    with pytest.raises(OvsegError, match=r"all\.json.*301, 302.*1, 2"):
        build_index(tmp_path / "a", runtime, IndexOptions(images=coco.images, captions=path))
    path = write_captions(tmp_path / "some.json", captions["images"], captions["annotations"] + foreign[:4])
    counts = build_index(tmp_path / "b", runtime, IndexOptions(images=coco.images, captions=path))
    assert counts["images_not_listed"] == 2 and counts["images"] == 6 and "301, 302" in caplog.text


def test_two_captions_with_one_id_are_an_error_unless_they_are_alike(
    coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    """A noun refers to its caption by image and caption id. Images may have captions with the ids of other images'."""
    captions = json.loads(coco.captions.read_text(encoding="utf-8"))
    annotations = [{**record, "id": record["id"] % 10} for record in captions["annotations"]]
    path = write_captions(tmp_path / "c.json", captions["images"], annotations + annotations)
    counts = build_index(tmp_path / "a", runtime, IndexOptions(images=coco.images, captions=path))
    assert counts["captions"] == len(annotations)
    other = {**annotations[0], "caption": "another text"}
    path = write_captions(tmp_path / "d.json", captions["images"], [*annotations, other])
    with pytest.raises(OvsegError, match=r"image 1 have the id 0: 'A .*'another text'"):
        build_index(tmp_path / "b", runtime, IndexOptions(images=coco.images, captions=path))


def test_captions_without_an_id_get_one_that_is_free(coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    image = {"id": 1, "file_name": "000001.jpg"}
    texts: list[Content] = [{"caption": "a"}, {"id": 0, "caption": "b"}, {"caption": "c"}, {"id": "7", "caption": "d"}]
    path = write_captions(tmp_path / "c.json", [image], [{"image_id": 1, **text} for text in texts])
    build_index(tmp_path / "a", runtime, IndexOptions(images=coco.images, captions=path))
    (row,) = tables.rows(tmp_path / "a", "index")
    assert {caption["id"]: caption["text"] for caption in row["captions"]} == {0: "b", 1: "a", 2: "c", 7: "d"}


def test_held_out_annotations_are_checked_alike(
    coco: Coco, content: Content, tiny_clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mask accuracy and recall: foreign ids, categories off by one, unknown categories, masks of which none can be read."""
    caplog.set_level(logging.WARNING)
    clips = {"clip": load_adapted(tiny_clip)}
    path = tmp_path / "held.json"

    def measure(value: Content, counts: Any = None) -> None:
        path.write_text(json.dumps(value), encoding="utf-8")
        arguments: Any = {"fill": "mean", "antialias": True, "templates": "none", "batch_size": 8, "counts": counts}
        measure_mask_accuracy(clips, coco.images, path, **arguments)

    def recall(value: Content, counts: Any = None) -> None:
        path.write_text(json.dumps(value), encoding="utf-8")
        measure_recall(lambda image: iter(()), coco.images, path, all_counts=counts)

    foreign = [{**record, "image_id": record["image_id"] + 300} for record in content["annotations"]]
    polygons = [{**record, "segmentation": [[1, 2]]} for record in content["annotations"]]
    repeated = [*content["categories"], {"id": 99, "name": content["categories"][0]["name"]}]
    for run in (measure, recall):
        for value, said in (
            ({**content, "annotations": foreign}, "301, 302"),
            ({**content, "annotations": polygons}, "polygon_malformed.*image 1"),
            (with_categories(content, lambda i: i - 1), "1 too small"),
            ({**content, "categories": []}, "no categories"),
        ):
            with pytest.raises(OvsegError, match=rf"held\.json.*{said}"):
                run(value)
    with pytest.raises(OvsegError, match=r"held\.json.*two categories 'star'"):
        measure({**content, "categories": repeated})
    counts: Counter[str] = Counter()
    measure(
        {**content, "annotations": [*content["annotations"], {**content["annotations"][0], "category_id": 77}]}, counts
    )
    assert counts["dropped.unknown_category"] == 1 and "77" in caplog.text


def test_images_of_another_size_than_listed_are_counted(
    coco: Coco, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    captions = json.loads(coco.captions.read_text(encoding="utf-8"))
    captions["images"][0] |= {"width": WIDTH + 1}
    captions["images"][1] |= {"width": HEIGHT, "height": WIDTH}
    captions["images"][2] |= {"width": str(WIDTH), "height": float(HEIGHT)}
    del captions["images"][3]["width"]
    path = write_captions(tmp_path / "c.json", captions["images"], captions["annotations"])
    counts = build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=path))
    assert counts["listed_size_differs"] == 2 and counts["images"] == 6 and "another size" in caplog.text


def test_masks_of_a_few_images_of_the_index_are_used(
    content: Content, propose: Callable[..., dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Files of masks need not cover the captions: that most images have none is a warning."""
    caplog.set_level(logging.WARNING)
    content["annotations"] = [record for record in content["annotations"] if record["image_id"] == 1]
    counts = propose("ground_truth", content)
    assert counts["dropped.image_without_proposals"] == 5 and "5 of 6 images have no mask" in caplog.text


def test_images_whose_only_masks_are_annotated_have_no_proposals(
    index: Path, coco: Coco, content: Content, tmp_path: Path, runtime: Runtime
) -> None:
    """Annotated masks stand beside the proposals in the table, and hide no image without any."""
    of_first = [record for record in content["annotations"] if record["image_id"] == 1]
    path = tmp_path / "few.json"
    path.write_text(json.dumps({**content, "annotations": of_first}), encoding="utf-8")
    options = ProposeOptions(source="ground_truth", path=path, annotations=coco.instances)
    counts = propose_masks(index, coco.images, tmp_path / "out", runtime, options)
    assert counts["annotated_masks"] > counts["proposals"] and counts["dropped.image_without_proposals"] == 5
