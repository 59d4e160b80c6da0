"""The table of copies: what is found of them, and that an image is no copy of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.copies import COPIES, OTHERS, Compared, compare, table
from ovseg.clip.load import load_clip
from ovseg.core.options import NearDuplicatesOptions
from tests.conftest import ROOT
from tests.scenes import scene


def test_copies_are_compared_with_their_originals_and_other_images_with_all(tmp_path: Path) -> None:
    for seed in range(3):
        Image.fromarray(scene(seed)).save(tmp_path / f"{seed}.png")
    compared = compare(tmp_path, tmp_path, load_clip(f"local-dir:{ROOT / 'data' / 'demo' / 'clip'}"))
    assert list(compared) == [*COPIES, OTHERS]
    assert all(len(compared[name].distances) == 3 for name in COPIES)
    assert len(compared[OTHERS].distances) == 3 * 2 and not compared[OTHERS].found(NearDuplicatesOptions()).any()
    for name in ("half the size", "mirrored"):
        assert compared[name].found(NearDuplicatesOptions()).all()


def test_a_row_has_what_the_hash_lets_through_and_what_clip_confirms() -> None:
    pairs = Compared(np.array([0, 10, 12, 14], np.uint8), np.array([0.99, 0.5, 0.9, 0.9], np.float32))
    rows = table({"half the size": pairs, OTHERS: pairs}).splitlines()
    assert rows[2] == "| half the size | 14 | 0.56 | 75.0% | 50.0% |"
    assert rows[3] == "| other mined images, 4 pairs |  |  | 3 | 2 |"
