"""The demo's five benchmarks: the same images under five vocabularies."""

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


def of_kind(annotated: bool) -> Noun:
    return next(noun for noun in nouns() if noun.annotated == annotated and noun.synonyms)


KNOWN, NOVEL = of_kind(True), of_kind(False)
LEFT, RIGHT = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
LEFT[:, :4], RIGHT[:, 8:] = True, True


@pytest.fixture
def roles(tmp_path: Path) -> dict[str, Benchmark]:
    """Image 1 has an annotated noun at the left and another at the right, image 2 nothing."""
    (tmp_path / "images").mkdir()
    images: list[dict[str, Any]] = []
    for number in (1, 2):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
    segments: list[dict[str, Any]] = [
        {"noun": KNOWN.name, "colour": "red", "rle": masks.encode(LEFT)},
        {"noun": NOVEL.name, "colour": None, "rle": masks.encode(RIGHT)},
    ]
    for role in ROLES["benchmark"]:
        write_role(tmp_path, role, images, {1: segments})
    return {role: read_benchmark(tmp_path / role) for role in ROLES["benchmark"]}


def test_each_role_has_its_vocabulary_with_synonyms(roles: dict[str, Benchmark]) -> None:
    every = {noun.name: noun for noun in nouns()}
    shown = {role: [names[0] for names in found.names] for role, found in roles.items()}
    assert shown["annotated"] == [name for name, noun in every.items() if noun.annotated]
    assert shown["novel"] == [name for name, noun in every.items() if not noun.annotated]
    assert shown["all"] == list(every)
    assert shown["fine"] == [f"red {KNOWN.name}"]
    mixed = [every[name].annotated for name in shown["mixed"]]
    assert 2 * sum(mixed) == len(mixed) and len(set(shown["mixed"])) == len(mixed)
    for role in ("annotated", "mixed", "novel", "all"):
        for names in roles[role].names:
            assert names == (names[0], *(synonym for synonym, _ in every[names[0]].synonyms))


def test_each_role_says_what_was_seen_in_training(roles: dict[str, Benchmark]) -> None:
    every = {noun.name: noun.annotated for noun in nouns()}
    for role in ("annotated", "mixed", "novel", "all"):
        assert roles[role].seen == tuple(every[names[0]] for names in roles[role].names)
    assert roles["fine"].seen is None


@pytest.mark.parametrize("role", ["annotated", "novel", "all", "fine"])
def test_labels_are_the_segments_of_its_vocabulary_and_the_rest_is_not_scored(
    roles: dict[str, Benchmark], role: str
) -> None:
    found = roles[role]
    assert [image for image, _ in found.items] == ["1.png"]  # image 2 has nothing to score
    wanted = np.full(SIZE, found.ignore)
    shown = [names[0] for names in found.names]
    for name, mask in ((KNOWN.name, LEFT), (NOVEL.name, RIGHT), (f"red {KNOWN.name}", LEFT)):
        if name in shown:
            wanted[mask] = shown.index(name)
    assert np.array_equal(found.read(0)[1], wanted)
