"""MaskFormer of transformers as a source of masks: a real one, small and random."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.options import IndexOptions, ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.propose import propose_masks
from ovseg.proposals.maskformer import maskformer
from tests.conftest import Coco
from tests.proposals.coco_files import Row, split
from tests.proposals.tiny_models import save_maskformer


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a MaskFormer; tests must not write to it."""
    return save_maskformer(tmp_path_factory.mktemp("maskformer"))


def test_proposals_are_the_masks_of_the_queries(network: Path, coco: Coco) -> None:
    """At the size of the image, best first, at most as many as requested, the same each time."""
    name = sorted(coco.images.iterdir())[0]
    image = ImageRecord(coco.images, 1, name.name, 0, name.stat().st_size, 64, 48)
    proposals, reasons = split(maskformer(str(network), 0.3, 100, "cpu")(image))
    assert 0 < len(proposals) <= 7 and reasons == []
    scores = [p.score for p in proposals]
    assert scores == sorted(scores, reverse=True) and all(0.3 < s <= 1 for s in scores)
    assert all(0 < masks.area(p.rle, 48, 64) <= 48 * 64 for p in proposals)
    assert split(maskformer(str(network), 0.3, 2, "cpu")(image))[0] == proposals[:2]


def test_a_maskformer_is_a_source_of_the_step(network: Path, coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    """The step writes a table with boxes inside the image."""
    build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=coco.captions))
    arguments: Row = {"source": "maskformer", "model": str(network), "mask_threshold": 0.3}
    counts = propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**arguments))
    rows = list(tables.rows(tmp_path / "out", "proposals"))
    assert counts["proposals"] == len(rows) > 0 and {row["source"] for row in rows} == {"maskformer"}
    assert all(x >= 0 and y >= 0 and x + w <= 64 and y + h <= 48 for x, y, w, h in (row["box"] for row in rows))


def test_a_checkpoint_that_lacks_weights_is_refused(network: Path, tmp_path: Path) -> None:
    """transformers initializes them randomly and only warns."""
    folder = Path(shutil.copytree(network, tmp_path / "m"))
    state = load_file(folder / "model.safetensors")
    key = next(name for name in state if "decoder" in name and name.endswith("weight"))
    del state[key]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(OvsegError, match="lack 1 keys"):
        maskformer(str(folder), 0.4, 100, "cpu")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(OvsegError, match="cannot load"):
        maskformer(str(folder), 0.4, 100, "cpu")


def test_a_folder_that_is_no_maskformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="cannot load the folder"):
        maskformer(str(tmp_path), 0.4, 100, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OvsegError, match="is a bert"):
        maskformer(str(tmp_path), 0.4, 100, "cpu")
