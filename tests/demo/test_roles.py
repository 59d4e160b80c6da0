"""The demo's five benchmarks: the same images with five vocabularies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.demo.world.make import ROLES
from data.demo.world.nouns import Noun, nouns
from data.demo.world.roles import write_role
from ovseg.core import masks
from ovseg.datasets.benchmark import Benchmark, read_benchmark

SIZE = (10, 12)


def first_noun(annotated: bool) -> Noun:
    """The first noun with synonyms that is annotated, or not."""
    return next(noun for noun in nouns() if noun.annotated == annotated and noun.synonyms)


ANNOTATED, NOVEL = first_noun(True), first_noun(False)
LEFT, RIGHT = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
LEFT[:, :4], RIGHT[:, 8:] = True, True


@pytest.fixture
def roles(tmp_path: Path) -> dict[str, Benchmark]:
    """Benchmarks of two images: the first shows an annotated noun at the left and a novel one at the right, the other none."""
    (tmp_path / "images").mkdir()
    images: list[dict[str, Any]] = []
    for number in (1, 2):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
    segments: list[dict[str, Any]] = [
        {"noun": ANNOTATED.name, "colour": "red", "rle": masks.encode(LEFT)},
        {"noun": NOVEL.name, "colour": None, "rle": masks.encode(RIGHT)},
    ]
    for role in ROLES["benchmark"]:
        write_role(tmp_path, role, images, {1: segments})
    return {role: read_benchmark(tmp_path / role) for role in ROLES["benchmark"]}


def test_each_role_has_its_vocabulary_with_synonyms(roles: dict[str, Benchmark]) -> None:
    by_name = {noun.name: noun for noun in nouns()}
    names = {role: [synonyms[0] for synonyms in benchmark.names] for role, benchmark in roles.items()}
    assert names["annotated"] == [name for name, noun in by_name.items() if noun.annotated]
    assert names["novel"] == [name for name, noun in by_name.items() if not noun.annotated]
    assert names["all"] == list(by_name)
    assert names["fine"] == [f"red {ANNOTATED.name}"]
    mixed = [by_name[name].annotated for name in names["mixed"]]
    assert 2 * sum(mixed) == len(mixed) and len(set(names["mixed"])) == len(mixed)
    for role in ("annotated", "mixed", "novel", "all"):
        for synonyms in roles[role].names:
            assert synonyms == (synonyms[0], *(synonym for synonym, _ in by_name[synonyms[0]].synonyms))


def test_each_role_says_which_classes_were_seen_in_training(roles: dict[str, Benchmark]) -> None:
    annotated = {noun.name: noun.annotated for noun in nouns()}
    for role in ("annotated", "mixed", "novel", "all"):
        assert roles[role].seen == tuple(annotated[names[0]] for names in roles[role].names)
    assert roles["fine"].seen is None


@pytest.mark.parametrize("role", ["annotated", "novel", "all", "fine"])
def test_labels_are_the_segments_of_the_vocabulary_and_other_pixels_are_ignored(
    roles: dict[str, Benchmark], role: str
) -> None:
    benchmark = roles[role]
    assert [image for image, _ in benchmark.items] == ["1.png"]  # the other image shows no class
    expected = np.full(SIZE, benchmark.ignore)
    names = [synonyms[0] for synonyms in benchmark.names]
    for name, mask in ((ANNOTATED.name, LEFT), (NOVEL.name, RIGHT), (f"red {ANNOTATED.name}", LEFT)):
        if name in names:
            expected[mask] = names.index(name)
    assert np.array_equal(benchmark.read(0)[1], expected)
