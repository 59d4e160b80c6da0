"""Every real sample at hand against its official values pixel by pixel, read here once more in another way.

What a number means is taken from the published lists and files, not from our class tables.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.datasets.ade20k import normalize_name, read_seg, read_seg_by_json, shrink
from ovseg.datasets.benchmark import read_benchmark
from ovseg.datasets.official import BENCHMARKS
from ovseg.datasets.pascal_voc import read_split
from tests.conftest import SHARED
from tests.datasets.drawn_releases import (
    ADE,
    CONTEXT,
    FULL,
    PAIRS,
    RELEASE_59,
    STUFF,
    Array,
    converted,
    link,
    photo,
    real,
    table,
    text,
)

LISTS, PAIR = SHARED / "classlists", ADE / "convert_pair"


def opened(path: Path) -> Array:
    return np.asarray(Image.open(path)).astype(np.int64)


def named(labels: Array, names: list[str], ignore: int) -> Array:
    """The name of each pixel's class, empty where it is ignored."""
    all_names = np.array([*names, ""], dtype=object)
    return all_names[np.where(labels == ignore, len(names), labels)]


def names_of(out: Path) -> list[str]:
    return [", ".join(names) for names in read_benchmark(out).names]


def published_150() -> list[str]:
    """Names by number less 1, as the makers of the 150 classes list them."""
    lines = (ADE / "objectInfo150.txt").read_text().splitlines()[1:]
    return [line.split("\t")[-1].strip() for line in lines]


def same_names(one: str, other: str) -> bool:
    """The same synonyms, whatever their order: the list begins number 90 with "television"."""
    return set(one.split(", ")) == set(other.split(", "))


# ADE20K, 150 classes -------------------------------------------------------------------------------------------------


def test_all_four_pairs_of_ade150_have_the_published_name_at_every_pixel(tmp_path: Path) -> None:
    """Three of the validation set, one of the training set."""
    maps = [*real(ADE / "sceneparse150_val").glob("*.png"), *(ADE / "sceneparse150_train").glob("*.png")]
    for path in maps:
        link(path, tmp_path / "annotations" / "validation" / path.name)
        link(path.with_suffix(".jpg"), tmp_path / "images" / "validation" / f"{path.stem}.jpg")
    labels_of_image, counts = converted("ade150", tmp_path, tmp_path / "out")
    ours = names_of(tmp_path / "out")
    published = ["", *published_150()]
    checked = 0
    for path in maps:
        raw, labels = opened(path), labels_of_image[f"{path.stem}.jpg"]
        assert raw.shape == labels.shape
        for number in np.unique(raw).tolist():
            here = set(named(labels[raw == number], ours, 255))
            assert len(here) == 1 and same_names(here.pop(), published[number])
            checked += 1
    assert (len(maps), counts["images"], len(published)) == (4, 4, 151) and checked > 40
    assert counts["ignored_pixels"] == sum(int((opened(path) == 0).sum()) for path in maps)


def test_the_vector_from_raw_numbers_to_150_gives_what_converting_the_challenges_own_map_gives(tmp_path: Path) -> None:
    """One image of ADE20K twice: as first annotated (`*_seg.png`, 1024 x 768), and as the challenge ships it (683 x 512).

    The vector has a line for each raw number: the challenge's number, 1 to 150, and the raw one; three of the 150 have two.
    """
    lines = [tuple(map(int, line.split())) for line in (real(PAIR) / "mapFromADE.txt").read_text().splitlines()]
    assert len(lines) == len({raw for _, raw in lines}) == 153 and {number for number, _ in lines} == {*range(1, 151)}
    lookup = np.full(4000, 255, np.uint16)
    for number, raw in lines:
        lookup[raw] = number - 1
    whole = read_seg((PAIR / "ADE_train_00000970_raw.png").read_bytes(), lookup)
    small = shrink(np.zeros((*whole.shape, 3), np.uint8), whole, 512)
    challenge = PAIR / "ADE_train_00000970_challenge.png"
    link(challenge, tmp_path / "annotations" / "validation" / "a.png")
    photo(tmp_path / "images" / "validation" / "a.jpg", opened(challenge).shape)
    labels_of_image, counts = converted("ade150", tmp_path, tmp_path / "out")
    assert whole.shape == (768, 1024) and small is not None
    assert np.array_equal(labels_of_image["a.jpg"], small[1]) and counts["classes"] > 3


def test_raw_numbers_of_the_vector_have_the_names_of_our_150_in_the_full_release() -> None:
    """So numbers of the pair are those of ADE20K_2021_17_01, whose JSONs say what they are called."""
    lines = [tuple(map(int, line.split())) for line in (real(PAIR) / "mapFromADE.txt").read_text().splitlines()]
    number_of = {raw: number for number, raw in lines}
    ours = {one.id: {name.casefold() for name in one.names} for one in table("ade150")}
    objects = {
        one["name_ndx"]: one["name"]
        for path in FULL.glob("*.json")
        for one in json.loads(path.read_text(encoding="latin-1"))["annotation"]["object"]
    }
    common = {raw: name for raw, name in objects.items() if raw in number_of}
    assert len(common) > 20
    assert all({*normalize_name(name).split(", ")} <= ours[number_of[raw]] for raw, name in common.items())


# ADE20K, 847 classes -------------------------------------------------------------------------------------------------


def test_full_annotations_of_ade847_have_the_name_of_their_number_at_every_pixel(tmp_path: Path) -> None:
    """Whole, and brought down to 512: the pixel under the centre of each new one."""
    for path in real(FULL).glob("*.*"):
        link(path, tmp_path / "images" / "ADE" / "validation" / path.name)
    labels_of_image, counts = converted("ade847", tmp_path, tmp_path / "out")
    ours = names_of(tmp_path / "out")
    listed_847 = {normalize_name(name) for name in json.loads((ADE / "ade847.json").read_text())}
    places = {normalize_name(name): place for place, name in enumerate(ours)}
    for path in FULL.glob("*.json"):
        objects = json.loads(path.read_text(encoding="latin-1"))["annotation"]["object"]
        name_by_number = {one["name_ndx"]: normalize_name(one["name"]) for one in objects}
        colours = opened(FULL / f"{path.stem}_seg.png")
        raw = colours[..., 0] // 10 * 256 + colours[..., 1]
        wanted = np.full(raw.shape, "", dtype=object)
        for number in np.unique(raw[raw > 0]).tolist():
            wanted[raw == number] = name_by_number[number] if name_by_number[number] in listed_847 else ""
        data = (FULL / f"{path.stem}_seg.png").read_bytes()
        whole = read_seg_by_json(data, path, places, 65535)
        assert np.array_equal(named(whole, [normalize_name(name) for name in ours], 65535), wanted)
        labels = labels_of_image[f"{path.stem}.jpg"]
        centres = [
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(labels.shape, raw.shape, strict=True)
        ]
        assert np.array_equal(named(labels, [normalize_name(name) for name in ours], 65535), wanted[np.ix_(*centres)])
    assert counts["images"] == 3 and set(places) == listed_847 and len(places) == 847


# Pascal VOC and Pascal Context ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pas20", "voc"])
def test_all_sixteen_pairs_of_voc_have_the_name_of_their_number_at_every_pixel(name: str, tmp_path: Path) -> None:
    for path in real(PAIRS).glob("*/*"):
        link(path, tmp_path / "VOC2012" / path.parent.name / path.name)
    maps = sorted(PAIRS.glob("*/*.png"))
    text(tmp_path / "VOC2012/ImageSets/Segmentation/val.txt", [path.stem for path in maps])
    labels_of_image, counts = converted(name, tmp_path, tmp_path / "out")
    published = np.array(["", *json.loads((LISTS / "CAT-Seg" / "voc20.json").read_text())], dtype=object)
    ours, scored = [names[0] for names in read_benchmark(tmp_path / "out").names], 0
    for path in maps:
        raw = opened(path)
        wanted = published[np.where(raw == 255, 0, raw)]
        assert np.array_equal(named(labels_of_image[f"{path.stem}.jpg"], ours, 255), wanted)
        scored += int((wanted != "").sum())
    assert counts["images"] == 16 and counts["pixels"] - counts["ignored_pixels"] == scored


def test_all_four_samples_of_pascal_context_have_the_name_of_their_colour_at_every_pixel(tmp_path: Path) -> None:
    """A colour is a number, bit by bit: red has its bits 0, 3 and 6, the highest first, green 1, 4, 7, blue 2 and 5."""
    for path in real(CONTEXT).iterdir():
        link(path, tmp_path / ("JPEGImages" if path.suffix == ".jpg" else "trainval") / path.name)
    stems = sorted(path.stem for path in CONTEXT.glob("*.jpg"))
    text(tmp_path / "pascalcontext_val.txt", stems)
    text(tmp_path / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(RELEASE_59, start=1)])
    labels_of_image, counts = converted("pc59", tmp_path, tmp_path / "out")
    published = np.array(["", *(name.replace("diningtable", "table") for name in RELEASE_59)], dtype=object)
    ours = [names[0].replace("diningtable", "table") for names in read_benchmark(tmp_path / "out").names]
    for stem in stems:
        colours = opened(CONTEXT / f"{stem}.png")
        numbers = np.zeros(colours.shape[:2], np.int64)
        for bit in range(8):
            numbers |= (colours[..., bit % 3] >> (7 - bit // 3) & 1) << bit
        assert numbers.max() < 60
        assert np.array_equal(named(labels_of_image[f"{stem}.jpg"], ours, 255), published[numbers])
    assert counts["images"] == 4


def test_the_list_of_pascal_context_is_as_long_as_published() -> None:
    names = read_split(real(LISTS) / "CAT-Seg" / "pascalcontext_val.txt")
    assert len(names) == BENCHMARKS["pc59"].images == BENCHMARKS["pc459"].images


# COCO-Stuff ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cocostuff", "cocostuff156"])
def test_all_ten_maps_of_coco_stuff_have_the_name_of_their_number_at_every_pixel(name: str, tmp_path: Path) -> None:
    """The published list counts from 1, maps from 0; what is 255 has no name."""
    for path in real(STUFF).iterdir():
        link(path, tmp_path / "stuffthingmaps" / "val2017" / path.name)
        link(STUFF.parent / "images" / f"{path.stem}.jpg", tmp_path / "val2017" / f"{path.stem}.jpg")
    labels_of_image, counts = converted(name, tmp_path, tmp_path / "out")
    published = np.full(256, "", dtype=object)
    for line in (LISTS / "cocostuff_labels.txt").read_text().splitlines()[1:]:
        number, name = line.split(": ")
        published[int(number) - 1] = name.strip()
    ours = [names[0] for names in read_benchmark(tmp_path / "out").names]
    for path in STUFF.iterdir():
        raw = opened(path)
        assert np.array_equal(named(labels_of_image[f"{path.stem}.jpg"], ours, 255), published[raw])
    assert counts["images"] == 10


# class tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [("ade847", "ade847"), ("pc59", "pc59"), ("pc459", "pc459"), ("pas20", "voc20"), ("cocostuff", "coco")],
)
def test_our_class_tables_are_the_published_lists_in_their_order(name: str, file: str) -> None:
    published = json.loads((real(LISTS) / "CAT-Seg" / f"{file}.json").read_text())
    assert [normalize_name(", ".join(one.names)) for one in table(name)] == [normalize_name(said) for said in published]


def test_our_150_classes_are_the_published_ones_by_their_numbers() -> None:
    real(ADE)
    assert [one.id for one in table("ade150")] == [*range(1, 151)]
    assert all(
        same_names(", ".join(one.names), said) for one, said in zip(table("ade150"), published_150(), strict=True)
    )
