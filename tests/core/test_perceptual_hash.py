"""The perceptual hash: what changes few of its bits, and what changes many."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from experiments.copies import COPIES
from ovseg.core.images import ImageArray
from ovseg.core.perceptual_hash import BITS, hash_distances, perceptual_hashes
from tests.scenes import scene

SCENES = [scene(seed) for seed in range(8)]


@pytest.mark.parametrize("name", [name for name in COPIES if not name.startswith(("4%", "8%"))])
def test_copies_differ_in_few_bits_and_other_images_in_many(name: str) -> None:
    hashes = [perceptual_hashes(pixels)[:, None] for pixels in SCENES]
    copies = [perceptual_hashes(COPIES[name](pixels))[0] for pixels in SCENES]
    assert max(hash_distances(*pair).min() for pair in zip(hashes, copies, strict=True)) <= 12
    assert min(hash_distances(hashes[i], copies[j]).min() for i, j in combinations(range(8), 2)) > 12


def test_the_second_hash_is_that_of_the_mirror_image() -> None:
    for pixels in SCENES:
        assert perceptual_hashes(pixels)[1] == perceptual_hashes(np.ascontiguousarray(pixels[:, ::-1]))[0]


@pytest.mark.parametrize("color", [0, 77, 255])
def test_images_of_one_color_have_no_bits(color: int) -> None:
    flat: ImageArray = np.full((30, 50, 3), color, np.uint8)
    assert perceptual_hashes(flat).tolist() == [0, 0]


def test_a_hash_has_63_bits_about_half_of_which_are_set() -> None:
    for pixels in SCENES:
        set_bits = hash_distances(perceptual_hashes(pixels), np.zeros(2, np.uint64))
        assert (set_bits == BITS // 2).all()


def test_a_tiny_image_has_a_hash() -> None:
    assert perceptual_hashes(np.asarray(Image.new("RGB", (1, 1), "red"))).shape == (2,)
