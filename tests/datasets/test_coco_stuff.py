"""COCO-Stuff: 171 classes pixel by pixel, in drawn files, and in real samples if they are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.datasets.benchmark import read_benchmark
from tests.datasets.drawn_releases import STUFF, converted, draw_stuff, link, real, spread, table


@pytest.mark.parametrize("name", ["cocostuff", "cocostuff156"])
def test_gaps_of_coco_stuff_are_closed_and_their_numbers_ignored(name: str, tmp_path: Path) -> None:
    """Each id of the class table becomes its place; the 11 ids that were never used, and 255, are ignored."""
    values = spread([*range(182), 255], size=(10, 20))
    draw_stuff(tmp_path, {"000000000001": values})
    labels_of_image, counts = converted(name, tmp_path, tmp_path / "out")
    place = {one.id: i for i, one in enumerate(table(name))}
    wanted = np.vectorize(lambda value: place.get(value, 255))(values)
    assert len(place) == 171 and np.array_equal(labels_of_image["000000000001.jpg"], wanted)
    gaps = sorted(set(range(182)) - set(place))
    assert (
        len(gaps) == 11 and counts["classes"] == 171 and counts["ignored_pixels"] == np.isin(values, [*gaps, 255]).sum()
    )
    seen = read_benchmark(tmp_path / "out").seen
    assert seen is None if name == "cocostuff" else seen is not None and seen.count(False) == 15


def test_real_maps_of_coco_stuff_agree_with_the_things_of_coco(tmp_path: Path) -> None:
    """Each value is the class that its id names; where COCO's panoptic masks show a thing, the name is the same."""
    for path in real(STUFF).iterdir():
        link(path, tmp_path / "stuffthingmaps" / "val2017" / path.name)
        link(STUFF.parent / "images" / f"{path.stem}.jpg", tmp_path / "val2017" / f"{path.stem}.jpg")
    labels_of_image, counts = converted("cocostuff", tmp_path, tmp_path / "out")
    names = [one.names[0] for one in table("cocostuff")]
    by_id = {255: ""} | {one.id: one.names[0] for one in table("cocostuff")}
    for name, labels in labels_of_image.items():
        values = np.asarray(Image.open(STUFF / name.replace("jpg", "png")))
        for value in np.unique(values).tolist():
            assert [names[i] for i in np.unique(labels[values == value]) if i != 255] == [by_id[value]] * (value != 255)
    about = json.loads((STUFF.parent / "panoptic.json").read_text())
    things = {one["id"]: one["name"] for one in about["categories"] if one["isthing"]}
    checked = 0
    for one in about["annotations"]:
        if (labels_here := labels_of_image.get(one["file_name"].replace("png", "jpg"))) is not None:
            colours = np.asarray(Image.open(STUFF.parent / "panoptic" / one["file_name"])).astype(int) @ [1, 256, 65536]
            for segment in one["segments_info"]:
                if segment["category_id"] in things and (place := colours == segment["id"]).sum() > 500:
                    expected = names.index(things[segment["category_id"]])
                    assert (labels_here[place] == expected).mean() > 0.9
                    checked += 1
    assert counts["images"] == 10 and checked >= 2
