"""Class tables: those that come with the package, and what is refused of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovseg.core.errors import OvsegError
from ovseg.datasets.classes import CLASS_TABLES, Class, read_classes

SIZES = {
    "ade150": (150, 150),
    "ade847": (847, 847),
    "pc59": (59, 59),
    "pc459": (459, 459),
    "pas20": (20, 20),
    "cocostuff": (171, 171),
    "cocostuff156": (171, 156),
    "voc": (20, 15),
}


def test_every_table_of_the_package_is_known_here() -> None:
    assert {path.stem for path in CLASS_TABLES.glob("*.json")} == SIZES.keys()


@pytest.mark.parametrize(("name", "classes", "seen"), [(name, *sizes) for name, sizes in SIZES.items()])
def test_a_table_of_the_package_has_its_classes(name: str, classes: int, seen: int) -> None:
    entries = read_classes(CLASS_TABLES / f"{name}.json")
    assert len(entries) == len({one.id for one in entries}) == classes
    assert sum(one.seen for one in entries) == seen
    assert all(text.strip() == text and text for one in entries for text in one.names)
    ignore = json.loads((CLASS_TABLES / f"{name}.json").read_text())["ignore"]
    assert ignore >= classes and ignore == (255 if max(one.id for one in entries) < 255 else 65535)


def test_the_splits_of_unseen_classes_are_the_published_ones() -> None:
    """METHODS 5.3."""
    unseen = {
        name: sorted(one.names[0] for one in read_classes(CLASS_TABLES / f"{name}.json") if not one.seen)
        for name in ("voc", "cocostuff156")
    }
    assert unseen["voc"] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert unseen["cocostuff156"] == sorted(
        [
            "cow",
            "giraffe",
            "suitcase",
            "frisbee",
            "skateboard",
            "carrot",
            "scissors",
            "cardboard",
            "clouds",
            "grass",
            "playingfield",
            "river",
            "road",
            "tree",
            "wall-concrete",
        ]
    )


def write(folder: Path, classes: Any) -> Path:
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    return folder / "classes.json"


def test_a_table_is_read_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": 7, "names": ["sky", "air"]}, {"id": 2, "names": ["sea"], "seen": False}])
    assert read_classes(path) == [Class(7, ("sky", "air")), Class(2, ("sea",), seen=False)]


@pytest.mark.parametrize(
    "classes",
    [
        [],
        [{"id": 1, "names": ["a"]}, {"id": 1, "names": ["b"]}],
        [{"id": 1, "names": []}],
        [{"names": ["a"]}],
        [{"id": 1}],
        ["a"],
        5,
        [{"id": "one", "names": ["a"]}],
        [{"id": 1, "names": 3}],
    ],
)
def test_what_is_no_class_table_is_refused(tmp_path: Path, classes: Any) -> None:
    with pytest.raises(OvsegError, match=r"classes\.json"):
        read_classes(write(tmp_path, classes))


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(OvsegError, match=r"classes\.json"):
        read_classes(tmp_path / "classes.json")
    with pytest.raises(OvsegError, match=r"gone\.json"):
        read_classes(tmp_path / "gone.json")
