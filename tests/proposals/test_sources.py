"""The registry of mask sources, as the step `propose` uses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import IndexOptions, ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.propose import propose_masks
from ovseg.proposals.network_folder import METADATA
from ovseg.proposals.sources import SOURCES, table_metadata
from tests.conftest import Coco, Toys
from tests.proposals.coco_files import Row


def test_the_step_writes_proposals_and_annotated_masks(coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    """Proposals have no label, annotated masks have one; malformed masks are counted and recorded; nothing else is lost."""
    content = json.loads(coco.instances.read_text(encoding="utf-8"))
    content["annotations"][0]["segmentation"]["counts"] = "o"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content), encoding="utf-8")
    build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=coco.captions))
    arguments: Row = {"source": "ground_truth", "path": broken, "annotations": coco.instances}
    counts = propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**arguments))
    rows = list(tables.rows(tmp_path / "out", "proposals"))
    number = len(content["annotations"])
    assert counts == {
        "images": 6,
        "proposals": number - 1,
        "annotated_masks": number,
        "dropped.rle_malformed": 1,
    }
    assert sum(row["label"] is None for row in rows) == number - 1
    failures = tables.read_part(tmp_path / "out" / "failures" / "00000.parquet", "failures").to_pylist()
    assert [(f["image_id"], f["reason"]) for f in failures] == [(1, "rle_malformed")]
    for row in rows:
        assert masks.area(row["rle"], 48, 64) == row["area"] and list(masks.box(row["rle"], 48, 64)) == row["box"]


def test_missing_options_of_a_source_are_named(tmp_path: Path, coco: Coco, runtime: Runtime) -> None:
    build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=coco.captions))
    for arguments, message in (
        ({"source": "ground_truth", "path": tmp_path / "gone"}, "gone"),
        ({"source": "precomputed"}, r"propose\.path"),
        ({"source": "maskformer"}, r"propose\.model"),
        ({"source": "sam3"}, "'sam3'.*" + ", ".join(SOURCES)),
        (
            {"source": "ground_truth", "path": coco.instances, "annotations": tmp_path / "gone"},
            r"propose\.annotations=.*gone",
        ),
    ):
        wrong: Row = dict(arguments)
        with pytest.raises(OvsegError, match=message):
            propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**wrong))


def network(folder: Path, toys: Toys, **metadata: object) -> ProposeOptions:
    """The options of masks by the toy network with other metadata."""
    shutil.copytree(toys.network, folder)
    stated = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    (folder / METADATA).write_text(json.dumps({**stated, **metadata}), encoding="utf-8")
    return ProposeOptions(source="proposal_network", model=str(folder))


def test_masks_carry_the_license_of_the_published_network_that_theirs_was_trained_on_from(
    toys: Toys, tmp_path: Path
) -> None:
    published = {"licence": "CC-BY-NC-4.0", "checkpoint": {"name": "r.pth", "weights": "x"}}
    later = {"licence": "Apache-2.0", "init": {"licence": "Apache-2.0", "init": published}}
    for name, metadata in (("published", published), ("later", later)):
        assert table_metadata(network(tmp_path / name, toys, **metadata))[tables.LICENCE] == "CC-BY-NC-4.0"
    own = network(tmp_path / "own", toys, licence="Apache-2.0")
    assert tables.LICENCE not in table_metadata(
        own
    )  # what a network of one's own is published under is not decided here


def test_the_masks_of_an_earlier_run_keep_its_network_and_license(tmp_path: Path, coco: Coco) -> None:
    made_by = {"ovseg.network": '{"model": "m"}', tables.LICENCE: "CC-BY-NC-4.0"}
    (tmp_path / "table").mkdir()
    tables.write_part(tmp_path / "table" / "00000.parquet", "proposals", [], "f", {**made_by, "ovseg.clip": "{}"})
    for path in (tmp_path / "table", tmp_path / "table" / "00000.parquet"):
        assert table_metadata(ProposeOptions(source="precomputed", path=path)) == made_by
    assert table_metadata(ProposeOptions(source="precomputed", path=coco.instances)) == {}
