"""The official data sets, small, as they unpack, with the labels that their benchmarks must get.

Drawn images have every number that a map can have; real samples of ../shared/data are among them where that folder is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.core import masks
from ovseg.datasets.pascal_context import palette
from tests.conftest import write_coco
from tests.datasets import drawn_releases as drawn
from tests.datasets.drawn_releases import ADE, CONTEXT, FULL, PAIRS, STUFF, Array, photo, png, spread, table, text

MINI = STUFF.parent
TRAIN, VAL = 900_000, 950_000  # ids of drawn images of COCO begin behind these
Truth = dict[str, dict[str, Array]]
"""Benchmark -> image -> its labels."""


def draw_coco(home: Path, real: bool) -> Truth:
    """Rectangles under noise, and every number of COCO-Stuff; real images, captions and masks of COCO."""
    for split, number, first in (("train2017", 12, TRAIN), ("val2017", 4, VAL)):
        _draw_split(home, split, number, first)
    large = home / "train2017" / f"{TRAIN + 500:012}.jpg"  # no caption has it; its download takes a while
    photo(large, (600, 900))
    png(home / "stuffthingmaps" / "train2017" / large.with_suffix(".png").name, np.full((600, 900), 255, np.uint8))
    drawn.draw_stuff(home, {f"{VAL + 500:012}": spread([*range(182), 255], size=(10, 20))})
    if real and MINI.is_dir():
        for path in sorted(STUFF.iterdir())[:4]:
            shutil.copyfile(path, home / "stuffthingmaps/val2017" / path.name)
            shutil.copyfile(MINI / "images" / f"{path.stem}.jpg", home / "val2017" / f"{path.stem}.jpg")
        _add_real_train(home)
    lookup = np.full(256, 255)
    for place, one in enumerate(table("cocostuff")):
        lookup[one.id] = place
    maps = (home / "stuffthingmaps" / "val2017").iterdir()
    return {"cocostuff": {f"{path.stem}.jpg": lookup[_opened(path)] for path in maps}}


def _draw_split(home: Path, split: str, number: int, first: int) -> None:
    notes, scratch = home / "annotations", home / "scratch"
    notes.mkdir(parents=True, exist_ok=True)
    (home / split).mkdir()
    (home / "stuffthingmaps" / split).mkdir(parents=True)
    made = write_coco(scratch, number, seed=first)
    captions, instances = (json.loads(path.read_text()) for path in (made.captions, made.instances))
    for image in captions["images"]:
        name = f"{image['id'] + first:012}.jpg"
        (made.images / image["file_name"]).rename(home / split / name)
        image["file_name"] = name
    instances["images"] = captions["images"]
    for whole in (captions, instances):
        for one in whole["annotations"]:
            one["image_id"] += first
            one["id"] += 10 * first
    for image in captions["images"]:
        image["id"] += first
    panoptic = {**instances, "annotations": [_panoptic(home, split, one, instances) for one in instances["images"]]}
    for kind, whole in (("captions", captions), ("instances", instances), ("panoptic", panoptic)):
        (notes / f"{kind}_{split}.json").write_text(json.dumps(whole), encoding="utf-8")
    shutil.rmtree(scratch)


def _panoptic(home: Path, split: str, image: Mapping[str, Any], instances: Mapping[str, Any]) -> dict[str, Any]:
    """Panoptic PNG and COCO-Stuff map of an image from its instances; the panoptic annotation."""
    size = image["height"], image["width"]
    numbers, stuff = np.zeros(size, np.uint8), np.full(size, 255, np.uint8)
    own = [one for one in instances["annotations"] if one["image_id"] == image["id"]]
    for number, one in enumerate(own, start=1):
        mask = masks.decode(one["segmentation"]["counts"].encode(), *size)
        numbers[mask], stuff[mask] = number, one["category_id"] - 1
    name = Path(image["file_name"]).with_suffix(".png").name
    png(home / "annotations" / f"panoptic_{split}" / name, np.stack([numbers, 0 * numbers, 0 * numbers], -1))
    png(home / "stuffthingmaps" / split / name, stuff)
    segments = [
        {"id": number, "category_id": one["category_id"], "iscrowd": 0, "area": int((numbers == number).sum())}
        for number, one in enumerate(own, start=1)
        if (numbers == number).any()
    ]
    return {"image_id": image["id"], "file_name": name, "segments_info": segments}


def _add_real_train(home: Path) -> None:
    """Four real images with captions and panoptic masks; their categories join the drawn ones."""
    real = {kind: json.loads((MINI / f"{kind}.json").read_text()) for kind in ("captions", "panoptic")}
    taken = {one["image_id"] for one in real["panoptic"]["annotations"][:4]}
    for kind, whole in real.items():
        path = home / "annotations" / f"{kind}_train2017.json"
        ours = json.loads(path.read_text())
        ours["images"] += [one for one in whole["images"] if one["id"] in taken]
        ours["annotations"] += [one for one in whole["annotations"] if one["image_id"] in taken]
        if kind == "panoptic":
            known = {one["id"] for one in ours["categories"]}
            ours["categories"] += [one for one in whole["categories"] if one["id"] not in known]
        path.write_text(json.dumps(ours), encoding="utf-8")
    for name in (f"{number:012}" for number in taken):
        shutil.copyfile(MINI / "images" / f"{name}.jpg", home / "train2017" / f"{name}.jpg")
        shutil.copyfile(MINI / "panoptic" / f"{name}.png", home / "annotations/panoptic_train2017" / f"{name}.png")
        size = Image.open(home / "train2017" / f"{name}.jpg").size
        png(home / "stuffthingmaps" / "train2017" / f"{name}.png", np.full(size[::-1], 255, np.uint8))


def draw_ade20k(home: Path, real: bool) -> Truth:
    """Both releases: every number of the 150; names of the 847 by their JSONs."""
    maps = {"ADE_val_00009001": spread(range(151), size=(16, 20)), "ADE_val_00009002": spread([7, 150])}
    samples = sorted((ADE / "sceneparse150_val").glob("*.png")) if real else []
    drawn.draw_ade150(home, maps | {path.stem: _opened(path).astype(np.uint8) for path in samples})
    challenge = home / "ADEChallengeData2016"
    for path in samples:
        shutil.copyfile(path, challenge / "annotations" / "validation" / path.name)
        shutil.copyfile(path.with_suffix(".jpg"), challenge / "images" / "validation" / f"{path.stem}.jpg")
    photo(challenge / "images" / "training" / "ADE_train_00000001.jpg")
    png(challenge / "annotations" / "training" / "ADE_train_00000001.png", spread([1, 2]))
    text(challenge / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tName"])
    validation = challenge / "annotations" / "validation"
    truth: Truth = {
        "ade150": {
            f"{path.stem}.jpg": np.where(_opened(path) == 0, 255, _opened(path) - 1) for path in validation.iterdir()
        }
    }
    return truth | {"ade847": _draw_full_ade(home, real)}


def _draw_full_ade(home: Path, real: bool) -> dict[str, Array]:
    values = spread([0, *drawn.OBJECTS], np.uint16)
    folder = drawn.draw_ade847(home, {"ADE_val_00009001": values, "ADE_val_00009002": values[::-1]})
    known = np.vectorize(lambda value: drawn.PLACES.get(value, 65535))
    truth = {
        "urban/street/ADE_val_00009001.jpg": known(values),
        "urban/street/ADE_val_00009002.jpg": known(values[::-1]),
    }
    place = {", ".join(one.names): i for i, one in enumerate(table("ade847"))}
    for path in sorted(FULL.glob("*.json"))[-1:] if real else []:
        name = path.stem.replace("train", "val")
        for end in (".json", ".jpg", "_seg.png"):
            shutil.copyfile(FULL / f"{path.stem}{end}", folder / f"{name}{end}")
        colours, about = _opened(FULL / f"{path.stem}_seg.png"), json.loads(path.read_text(encoding="latin-1"))
        lookup = np.full(4000, 65535)
        for one in about["annotation"]["object"]:
            lookup[one["name_ndx"]] = place.get(one["name"], 65535)
        labels = lookup[colours[..., 0] // 10 * 256 + colours[..., 1]]
        sides = [round(side * 512 / min(labels.shape)) for side in labels.shape]
        centres = [
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(sides, labels.shape, strict=True)
        ]
        truth[f"urban/street/{name}.jpg"] = labels[np.ix_(*centres)]
    return truth


def draw_pascal_voc(home: Path, real: bool) -> Truth:
    """Every number; the maps of SegmentationClassAug are grey, those of SegmentationClass have a palette."""
    maps = {"2007_009001": spread([*range(21), 255]), "2007_009002": spread([0, 5])}
    samples = sorted(PAIRS.glob("SegmentationClassAug/2007*.png")) if real else []
    drawn.draw_voc(home, maps | {path.stem: _opened(path).astype(np.uint8) for path in samples})
    devkit = home / "VOCdevkit" / "VOC2012"
    for path in samples:
        shutil.copyfile(path, devkit / "SegmentationClassAug" / path.name)
        shutil.copyfile(PAIRS / "JPEGImages" / f"{path.stem}.jpg", devkit / "JPEGImages" / f"{path.stem}.jpg")
    png(devkit / "SegmentationClass" / "2007_009001.png", maps["2007_009001"], palette())
    text(devkit / "ImageSets" / "Main" / "val.txt", list(maps))
    maps = {path.stem: _opened(path) for path in (devkit / "SegmentationClassAug").iterdir()}
    return {"pas20": {f"{name}.jpg": np.where((one == 0) | (one == 255), 255, one - 1) for name, one in maps.items()}}


def draw_pascal_context(home: Path, real: bool) -> Truth:
    """Every number in .mat files; real maps of the 59 classes as such files too."""
    ids = {one.names[0]: one.id for one in table("pc459")}
    maps = {"2008_009001": spread(range(460), np.uint16, (20, 23)), "2008_009002": spread([0, 2], np.uint16)}
    numbers_59 = np.array([0, *(ids[name] for name in drawn.RELEASE_59)], np.uint16)
    samples = sorted(CONTEXT.glob("*.png"))[:2] if real else []
    weights = np.array([2**16, 2**8, 1])
    for path in samples:
        same = (_opened(path) @ weights)[..., None] == palette()[:60].astype(int) @ weights
        maps[path.stem] = numbers_59[same.argmax(-1)]
    devkit = drawn.draw_context(home, maps)
    for path in samples:
        shutil.copyfile(path.with_suffix(".jpg"), devkit / "JPEGImages" / f"{path.stem}.jpg")
    text(devkit / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(drawn.RELEASE_59, start=1)])
    names = {number: name.replace("table", "diningtable") if number == 397 else name for name, number in ids.items()}
    place = {one.names[0]: i for i, one in enumerate(table("pc59"))}
    lookup = np.array([255, *(place.get(names[number], 255) for number in range(1, 460))])
    return {
        "pc459": {f"{name}.jpg": np.where(one == 0, 65535, one.astype(int) - 1) for name, one in maps.items()},
        "pc59": {f"{name}.jpg": lookup[one] for name, one in maps.items()},
    }


def _opened(path: Path) -> Array:
    return np.asarray(Image.open(path)).astype(np.int64)


DRAW = {"coco": draw_coco, "ade20k": draw_ade20k, "pascal_voc": draw_pascal_voc, "pascal_context": draw_pascal_context}
