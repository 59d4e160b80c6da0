"""Official releases as they unpack, with a few drawn images, and where real samples are found."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.datasets.classes import CLASS_TABLES, Class, read_classes
from ovseg.datasets.official import convert
from tests.conftest import SHARED

Array = NDArray[Any]
ADE, STUFF, CONTEXT = SHARED / "ade20k", SHARED / "minicoco" / "stuffthingmaps", SHARED / "pascal_context_samples"
FULL, PAIRS = ADE / "full2021", SHARED / "voc_pairs"
SIZE = (12, 20)
rng = np.random.default_rng(0)


def real(folder: Path) -> Path:
    """A folder of real samples, or the test is skipped."""
    if not folder.is_dir():
        pytest.skip(f"no real samples: {folder} is not there")
    return folder


def png(path: Path, values: Array, colours: Array | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if colours is not None:
        image = Image.fromarray(values, "P")
        image.putpalette(colours.ravel().tolist())
    image.save(path)


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path, format="JPEG", quality=95)


def mat(path: Path, values: Array, name: str = "LabelMap") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: values}, do_compression=True)


def text(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def spread(values: Sequence[int], kind: Any = np.uint8, size: tuple[int, int] = SIZE) -> Array:
    """A map in which each of the values occurs."""
    return np.resize(np.array(values, kind), size)


def seg(numbers: Array) -> Array:
    """Colours of `*_seg.png`: red is 10 for each 256, and some more that says nothing; blue is the instance."""
    rest = rng.integers(0, 10, numbers.shape)
    reds = numbers // 256 * 10
    return np.stack([reds + np.where(reds < 250, rest, 0), numbers % 256, rest], -1).astype(np.uint8)


def table(name: str) -> list[Class]:
    return read_classes(CLASS_TABLES / f"{name}.json")


def labels_of(benchmark: Benchmark) -> dict[str, Array]:
    return {benchmark.items[i][0]: benchmark.read(i)[1] for i in range(len(benchmark.items))}


def converted(name: str, root: Path, out: Path, **rest: Any) -> tuple[dict[str, Array], dict[str, int]]:
    counts = convert(name, root, out, allow_missing=True, **rest)
    return labels_of(read_benchmark(out)), counts


def draw_ade150(root: Path, maps: Mapping[str, Array]) -> None:
    home = root / "ADEChallengeData2016"
    for name, values in maps.items():
        photo(home / "images" / "validation" / f"{name}.jpg", values.shape)
        png(home / "annotations" / "validation" / f"{name}.png", values)


def draw_stuff(root: Path, maps: Mapping[str, Array]) -> None:
    for name, values in maps.items():
        photo(root / "val2017" / f"{name}.jpg", values.shape)
        png(root / "stuffthingmaps" / "val2017" / f"{name}.png", values)


def draw_voc(
    root: Path, maps: Mapping[str, Array], colours: Array | None = None, folder: str = "SegmentationClassAug"
) -> None:
    home = root / "VOCdevkit" / "VOC2012"
    for name, values in maps.items():
        photo(home / "JPEGImages" / f"{name}.jpg", values.shape)
        png(home / folder / f"{name}.png", values, colours)
    text(home / "ImageSets" / "Segmentation" / "val.txt", list(maps))


def draw_context(root: Path, maps: Mapping[str, Array]) -> Path:
    home = root / "VOCdevkit" / "VOC2010"
    for name, values in maps.items():
        photo(home / "JPEGImages" / f"{name}.jpg", values.shape)
        mat(home / "trainval" / f"{name}.mat", values)
    text(home / "pascalcontext_val.txt", list(maps))
    text(home / "labels.txt", [f"{one.id}: {one.names[0]}" for one in table("pc459")])
    return home


RELEASE_59 = [  # the order of the release's 59_labels.txt
    *(one.names[0].replace("dining", "") for one in table("pas20")),
    *"bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower food grass ground".split(),
    *"keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes".split(),
    *"track tree truck wall water window wood".split(),
]
OBJECTS = {  # numbers of classes as the release writes their names; 300 is of none of the 847
    5: "wall",
    256: "building, edifice",
    300: "nothing of the 847",
    2977: "altar, communion table, Lord''s table",
    3600: "central processing unit, CPU, C P U , central processor, processor, mainframe",
}
PLACES = {
    number: next((i for i, one in enumerate(table("ade847")) if one.names[0] == name), 65535)
    for number, name in zip(OBJECTS, ("wall", "building", "?", "altar", "central processing unit"), strict=True)
}


def draw_ade847(root: Path, maps: Mapping[str, Array], objects: Mapping[int, str] = OBJECTS) -> Path:
    folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "urban" / "street"
    for name, values in maps.items():
        photo(folder / f"{name}.jpg", values.shape)
        png(folder / f"{name}_seg.png", seg(values.astype(int)))
        png(folder / name / f"instance_000_{name}.png", values.astype(np.uint8))
        annotation = {"object": [{"name_ndx": i, "name": label, "raw_name": "é"} for i, label in objects.items()]}
        content = json.dumps({"annotation": annotation}, ensure_ascii=False)
        (folder / f"{name}.json").write_text(content, encoding="latin-1")
    return folder


def write_index(root: Path, objects: Mapping[int, str] = OBJECTS, protocol: int = 4) -> Path:
    names = [objects.get(number, f"object {number}") for number in range(1, 3688)]
    path = root / "ADE20K_2021_17_01" / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps({"objectnames": names, "objectPresence": np.ones((3, 2))}, protocol))
    return path


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
