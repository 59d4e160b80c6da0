"""Exports name real images: those of a folder as they are, those of tar files after writing them beside the JSON."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.options import ShardsOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.export import coco as export_coco
from ovseg.mining.export import csv_, open_clip
from ovseg.mining.shards import write_shards
from tests.conftest import Coco, Mined, mine_tables

Export = Callable[..., str]


@pytest.fixture
def from_shards(coco: Coco, tagger: str, tiny_clip: Path, tmp_path: Path, runtime: Runtime) -> Mined:
    """A run on the six small images in two tar files, one of them with folders and `./`."""
    folder = tmp_path / "tars"
    folder.mkdir()
    captions = {row["image_id"]: row["caption"] for row in json.loads(coco.captions.read_text())["annotations"][::-1]}
    for name, prefix, ids in (("a.tar", "", (1, 2, 3)), ("b.tar", "./", (4, 5, 6))):
        with tarfile.open(folder / name, "w") as out:
            for i in ids:
                jpeg = (coco.images / f"{i:06d}.jpg").read_bytes()
                for suffix, data in (("jpg", jpeg), ("txt", captions[i].encode())):
                    info = tarfile.TarInfo(f"{prefix}{i:06d}.{suffix}")
                    info.size = len(data)
                    out.addfile(info, io.BytesIO(data))
    return mine_tables(Coco(folder, folder, coco.instances), tmp_path / "run", tagger, tiny_clip, runtime)


def check(out: Path, images: Path, mined: Mined) -> COCO:
    """Every pair is an annotation of an image file that exists and has the size that the JSON states."""
    api = COCO(str(out / "instances.json"))
    assert len(api.anns) == tables.read(mined.pairs, "pairs").num_rows
    for image in api.imgs.values():
        with Image.open(images / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    return api


def test_images_of_tar_files_are_written_and_named(from_shards: Mined, coco: Coco, tmp_path: Path) -> None:
    message = export_coco(from_shards.folder, tmp_path / "out", "mean", from_shards.coco.images)
    api = check(tmp_path / "out", tmp_path / "out" / "images", from_shards)
    assert str(tmp_path / "out" / "images") in message
    for image in api.imgs.values():
        original = coco.images / f"{image['id']:06d}.jpg"
        assert (tmp_path / "out" / "images" / image["file_name"]).read_bytes() == original.read_bytes()
        assert image["file_name"] == original.name


@pytest.mark.parametrize("export", [open_clip, csv_])
def test_a_background_that_the_shards_have_filled_cannot_be_exported(
    export: Export, mined: Mined, tmp_path: Path, runtime: Runtime
) -> None:
    run = tmp_path / "run"
    write_shards(mined.index, mined.coco.images, mined.proposals, mined.pairs, run / "shards", runtime, ShardsOptions())
    for number, fill in enumerate(("mean", "zero")):
        export(run, tmp_path / str(number), fill)
    with pytest.raises(
        OvsegError, match=r"written with shards\.background=mean, .* again with shards\.background=keep"
    ):
        export(run, tmp_path / "keep", "keep")


def test_the_folder_of_the_tars_is_that_of_the_run_or_is_asked_for(from_shards: Mined, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="--images"):
        export_coco(from_shards.folder, tmp_path / "no", "mean")
    options = {"index": {"images": str(from_shards.coco.images)}}
    write_json(from_shards.folder / "run.json", {"options": options})
    export_coco(from_shards.folder, tmp_path / "out", "mean")
    check(tmp_path / "out", tmp_path / "out" / "images", from_shards)
    (from_shards.coco.images / "a.tar").unlink()
    with pytest.raises(OvsegError, match=r"a\.tar.*--images"):
        export_coco(from_shards.folder, tmp_path / "gone", "mean")


def test_images_of_a_folder_are_named_and_not_copied(mined: Mined, coco: Coco, tmp_path: Path) -> None:
    export_coco(mined.folder, tmp_path / "out", "mean")
    check(tmp_path / "out", coco.images, mined)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["instances.json"]


def test_masks_of_exported_images_are_those_of_the_run(from_shards: Mined, mined: Mined, tmp_path: Path) -> None:
    """Mining from tar files and from the folder gives the same pairs, and so the same annotations."""
    export_coco(from_shards.folder, tmp_path / "a", "mean", from_shards.coco.images)
    export_coco(mined.folder, tmp_path / "b", "mean")
    contents = [json.loads((tmp_path / name / "instances.json").read_text()) for name in "ab"]
    keys = ("image_id", "bbox", "segmentation")
    first, second = ([{key: row[key] for key in keys} for row in content["annotations"]] for content in contents)
    assert first == second and np.any([row["bbox"] for row in first])
