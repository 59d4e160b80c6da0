"""Where masks come from: annotated files, somebody else's results, and a real MaskFormer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.core import masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.options import ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.propose import propose_masks
from ovseg.proposals import Proposal
from ovseg.proposals.ground_truth import ground_truth
from ovseg.proposals.mask_logits import binarize_proposals
from ovseg.proposals.maskformer import maskformer
from ovseg.proposals.precomputed import precomputed
from ovseg.proposals.sources import SOURCES
from tests.conftest import SHARED, Coco

W, H = 16, 12
IMAGE = ImageRecord(Path(), 3, "a.jpg", 0, 0, W, H)
LEFT = np.zeros((H, W), bool)
LEFT[2:9, 1:7] = True
RIGHT = np.zeros((H, W), bool)
RIGHT[1:5, 9:15] = True

Row = dict[str, Any]


def rle(mask: masks.MaskArray, form: str = "text") -> Row:
    counts: Any = masks.encode(mask)
    counts = {"text": counts.decode(), "runs": masks.run_lengths(counts)}[form]
    return {"size": list(mask.shape), "counts": counts}


def coco_file(path: Path, annotations: list[Row]) -> Path:
    images = [{"id": 3, "file_name": "a.jpg"}]
    categories = [{"id": 1, "name": "Dog"}, {"id": 2, "name": "grass"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return path


def split(found: Any) -> tuple[list[Proposal], list[str]]:
    items = list(found)
    return [i for i in items if isinstance(i, Proposal)], [i.reason for i in items if isinstance(i, BadItem)]


def pixels(proposal: Proposal) -> masks.MaskArray:
    return masks.decode(proposal.rle, H, W)


def test_instances_in_every_form(tmp_path: Path) -> None:
    """Polygons, compressed and uncompressed RLE give their masks; class names only where they are asked for."""
    path = coco_file(
        tmp_path / "i.json",
        [
            {"image_id": 3, "category_id": 1, "segmentation": [[1, 2, 7, 2, 7, 9, 1, 9]]},
            {"image_id": 3, "category_id": 2, "segmentation": rle(LEFT)},
            {"image_id": 3, "category_id": 2, "segmentation": rle(RIGHT, "runs")},
            {"image_id": 4, "category_id": 2, "segmentation": rle(RIGHT)},
        ],
    )
    found, bad = split(ground_truth(path, tmp_path / "s")(IMAGE))
    assert bad == [] and [p.label for p in found] == [None] * 3 and [p.score for p in found] == [1.0] * 3
    for proposal, mask in zip(found, (LEFT, LEFT, RIGHT), strict=True):
        assert np.array_equal(pixels(proposal), mask)
    named, _ = split(ground_truth(path, tmp_path / "s2", labels=True)(IMAGE))
    assert [p.label for p in named] == ["Dog", "grass", "grass"]


def test_an_annotation_that_is_no_mask_costs_nothing_else(tmp_path: Path) -> None:
    """Crowds and broken masks are each a reason; the others of the image stay."""
    bad: list[Row] = [
        {"iscrowd": 1, "segmentation": rle(LEFT)},
        {"segmentation": rle(np.zeros((H, W), bool))},
        {"segmentation": rle(LEFT.T)},
        {"segmentation": {"size": [H, W], "counts": "o"}},
        {"segmentation": [[1, 2]]},
        {},
        {"segmentation": rle(LEFT), "score": None},
        {"segmentation": rle(LEFT), "score": "high"},
    ]
    good: Row = {"segmentation": rle(RIGHT), "category_id": None}
    path = coco_file(tmp_path / "i.json", [{"image_id": 3, **row} for row in [*bad, good]])
    found, reasons = split(ground_truth(path, tmp_path / "s", labels=True)(IMAGE))
    assert reasons == [
        "crowd",
        "empty_mask",
        "rle_size",
        "rle_malformed",
        "polygon_malformed",
        "polygon_malformed",
        "score_malformed",
        "score_malformed",
    ]
    assert len(found) == 1 and np.array_equal(pixels(found[0]), RIGHT) and found[0].label is None


def panoptic(folder: Path, segments: Any, ids: Any = None, **more: Any) -> Path:
    (folder / "p").mkdir(exist_ok=True)
    ids = np.where(LEFT, 7, np.where(RIGHT, 70_000, 0)) if ids is None else ids
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "p" / "a.png")
    return coco_file(folder / "p.json", [{"image_id": 3, "file_name": "a.png", "segments_info": segments, **more}])


def test_panoptic_segments_are_read_from_their_png(tmp_path: Path) -> None:
    """Identifiers over all three channels; what has no pixel, or is no segment, is said."""
    segments = [
        {"id": 7, "category_id": 1},
        {"id": 70_000, "category_id": 2},
        {"id": 5, "category_id": 1},
        {"category_id": 1},
        "x",
    ]
    found, reasons = split(ground_truth(panoptic(tmp_path, segments), tmp_path / "s", labels=True)(IMAGE))
    assert [p.label for p in found] == ["Dog", "grass"] and reasons == [
        "empty_mask",
        "segment_malformed",
        "segment_malformed",
    ]
    assert np.array_equal(pixels(found[0]), LEFT) and np.array_equal(pixels(found[1]), RIGHT)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"file_name": "gone.png"}, "missing_mask_file"),
        ({"file_name": "../p.json"}, "unsafe_path"),
        ({"file_name": None}, "missing_mask_file"),
    ],
)
def test_a_panoptic_file_that_cannot_be_read_says_why(more: Row, reason: str, tmp_path: Path) -> None:
    found, reasons = split(ground_truth(panoptic(tmp_path, [{"id": 7}], **more), tmp_path / "s")(IMAGE))
    assert found == [] and reasons == [reason]


def test_a_panoptic_file_of_another_size_says_so(tmp_path: Path) -> None:
    path = panoptic(tmp_path, [{"id": 7}], ids=np.zeros((H, W + 1), int))
    assert split(ground_truth(path, tmp_path / "s")(IMAGE)) == ([], ["mask_size"])


@pytest.mark.parametrize("mode", ["L", "P"])
def test_stuff_maps_are_class_by_class(mode: str, tmp_path: Path) -> None:
    """Every value of the class table is a mask with that class's name; a palette's colours have no say."""
    values = np.where(LEFT, 3, np.where(RIGHT, 155, 255)).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([5] * 768)
    image.save(tmp_path / "a.png")
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": [{"id": 3, "names": ["car", "auto"]}, {"id": 155, "names": ["wood"]}]})
    )
    found, reasons = split(ground_truth(tmp_path, tmp_path, labels=True)(IMAGE))
    assert [p.label for p in found] == ["car", "wood"] and reasons == []
    assert np.array_equal(pixels(found[0]), LEFT) and np.array_equal(pixels(found[1]), RIGHT)


def test_a_class_table_that_is_given_comes_before_the_folder_s_own(tmp_path: Path) -> None:
    Image.fromarray(np.full((H, W), 3, np.uint8)).save(tmp_path / "a.png")
    for name in ("classes", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"classes": [{"id": 3, "names": [name]}]}))
    for given, wanted in ((None, "classes"), (tmp_path / "other.json", "other")):
        found, _ = split(ground_truth(tmp_path, tmp_path / "s", labels=True, classes=given)(IMAGE))
        assert [proposal.label for proposal in found] == [wanted]


def test_a_stuff_map_that_is_none_says_so(tmp_path: Path) -> None:
    source = ground_truth(tmp_path, tmp_path)
    assert split(source(IMAGE)) == ([], ["missing_mask_file"])
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    assert split(source(IMAGE)) == ([], ["not_labels"])
    (tmp_path / "a.png").write_bytes(b"x")
    assert split(source(IMAGE)) == ([], ["not_an_image"])


def results(folder: Path) -> Path:
    scores = [0.2, 0.9, 0.5]
    rows = [{"image_id": 3, "category_id": 1, "score": s, "segmentation": rle(LEFT)} for s in scores]
    broken = [{"image_id": 3, "score": 1.0, "segmentation": {"size": [H, W], "counts": "o"}}] * 2
    (folder / "r.json").write_text(json.dumps([*broken, *rows, {"image_id": 9, "segmentation": rle(RIGHT)}]))
    return folder / "r.json"


def parquet(folder: Path) -> Path:
    (folder / "table").mkdir()
    for number, (image_id, scores) in enumerate(((3, (0.2, 0.9, 0.5)), (9, (0.7,)))):
        rows = [
            {"image_id": image_id, "rle": masks.encode(LEFT), "height": H, "width": W, "score": s, "label": "x"}
            for s in scores
        ]
        rows += [{**rows[0], "rle": b"o"}] * 2
        tables.write_part(folder / "table" / f"{number:05d}.parquet", "proposals", rows, "f")
    return folder / "table"


@pytest.mark.parametrize("made", [results, parquet])
def test_precomputed_masks_come_best_first(made: Callable[[Path], Path], tmp_path: Path) -> None:
    """Sorted by score, at most as many as asked for; a broken one takes nobody's place, and classes are dropped."""
    path = made(tmp_path)
    found, reasons = split(precomputed(path, tmp_path / "s", 2)(IMAGE))
    assert [p.score for p in found] == pytest.approx([0.9, 0.5]) and [p.label for p in found] == [None, None]
    assert reasons == ["rle_malformed"] * 2 and np.array_equal(pixels(found[0]), LEFT)
    assert split(precomputed(path, tmp_path / "s", 9)(ImageRecord(Path(), 4, "b.jpg", 0, 0, W, H))) == ([], [])


def test_a_single_part_is_a_table_too(tmp_path: Path) -> None:
    path = parquet(tmp_path) / "00000.parquet"
    assert len(split(precomputed(path, tmp_path / "s", 9)(IMAGE))[0]) == 3


def test_a_table_that_is_another_says_so(tmp_path: Path) -> None:
    tables.write_part(tmp_path / "x.parquet", "nouns", [], "f")
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(OvsegError, match="expected 'proposals'"):
            precomputed(path, tmp_path / "s", 9)


def test_real_coco_annotations_agree_with_each_other(tmp_path: Path) -> None:
    """On COCO's own files the panoptic PNGs and their RLEs are the same masks."""
    folder = SHARED / "minicoco"
    if not folder.is_dir():
        pytest.skip("../shared/data/minicoco is not there")
    records = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))["annotations"][:3]
    by_png = ground_truth(folder / "panoptic.json", tmp_path / "a")
    by_rle = ground_truth(folder / "segments_from_panoptic.json", tmp_path / "b")
    for record in records:
        height, width = np.asarray(Image.open(folder / "panoptic" / record["file_name"])).shape[:2]
        image = ImageRecord(folder / "images", record["image_id"], "", 0, 0, width, height)
        one, other = ({p.rle for p in split(source(image))[0]} for source in (by_png, by_rle))
        assert one == other and one


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real MaskFormer, random and small, saved as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=3,
        backbone_config=transformers.SwinConfig(
            image_size=32,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=transformers.DetrConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_queries=7,
            use_timm_backbone=False,
            backbone_config=None,
        ),
    )
    folder = tmp_path_factory.mktemp("maskformer")
    torch.manual_seed(0)
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    transformers.MaskFormerImageProcessor(
        size={"shortest_edge": 48, "longest_edge": 96}, size_divisor=32
    ).save_pretrained(folder)
    return folder


def test_a_real_maskformer_gives_masks_of_its_queries(network: Path, coco: Coco) -> None:
    """From a folder, at the image's size, best first, at most as many as asked for, the same each time."""
    name = sorted(coco.images.iterdir())[0]
    image = ImageRecord(coco.images, 1, name.name, 0, name.stat().st_size, 64, 48)
    found, reasons = split(maskformer(str(network), 0.3, 100, "cpu")(image))
    assert 0 < len(found) <= 7 and reasons == []
    scores = [p.score for p in found]
    assert scores == sorted(scores, reverse=True) and all(0.3 < s <= 1 for s in scores)
    assert all(0 < masks.area(p.rle, 48, 64) <= 48 * 64 for p in found)
    assert split(maskformer(str(network), 0.3, 2, "cpu")(image))[0] == found[:2]


def test_a_maskformer_is_a_source_of_the_step(network: Path, coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    """The step with a model writes the table: no labels, boxes inside the image."""
    from ovseg.mining.index import build_index

    build_index(coco.images, coco.captions, tmp_path / "index", runtime)
    arguments: Row = {"source": "maskformer", "model": str(network), "mask_threshold": 0.3}
    counts = propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**arguments))
    rows = list(tables.rows(tmp_path / "out", "proposals"))
    assert counts["proposals"] == len(rows) > 0 and {row["source"] for row in rows} == {"maskformer"}
    assert all(x >= 0 and y >= 0 and x + w <= 64 and y + h <= 48 for x, y, w, h in (row["box"] for row in rows))


def test_a_checkpoint_that_lacks_weights_is_refused(network: Path, tmp_path: Path) -> None:
    """transformers would leave them random and only warn."""
    import shutil

    from safetensors.torch import load_file, save_file

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


def test_a_folder_that_is_no_maskformer_says_so(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="cannot load the folder"):
        maskformer(str(tmp_path), 0.4, 100, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OvsegError, match="is a bert"):
        maskformer(str(tmp_path), 0.4, 100, "cpu")


def test_padding_is_cut_off_before_the_mask_is_enlarged() -> None:
    """A query that is on in the left half of the unpadded part is on in the left half of the image."""
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, :6, :2] = 9.0  # of which 6 rows and 4 columns are image
    logits[:, 6:] = logits[:, :, 4:] = 9.0  # padding, which must not be seen
    (found,) = binarize_proposals(logits, (6, 4), 12, 16, 0.5)
    mask = masks.decode(found.rle, 12, 16)
    assert mask[:, :8].all() and not mask[:, 8:].any() and found.score > 0.8


def test_masks_of_the_step_and_annotated_ones(coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    """Proposals have no label, annotated masks have one; broken masks are counted and recorded; nothing else is lost."""
    from ovseg.mining.index import build_index

    whole = json.loads(coco.instances.read_text(encoding="utf-8"))
    whole["annotations"][0]["segmentation"]["counts"] = "o"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(whole), encoding="utf-8")
    build_index(coco.images, coco.captions, tmp_path / "index", runtime)
    arguments: Row = {"source": "ground_truth", "path": broken, "annotations": coco.instances}
    counts = propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**arguments))
    rows = list(tables.rows(tmp_path / "out", "proposals"))
    number = len(whole["annotations"])
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


def test_a_source_without_its_path_says_so(tmp_path: Path, coco: Coco, runtime: Runtime) -> None:
    from ovseg.mining.index import build_index

    build_index(coco.images, coco.captions, tmp_path / "index", runtime)
    for arguments, said in (
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
        with pytest.raises(OvsegError, match=said):
            propose_masks(tmp_path / "index", coco.images, tmp_path / "out", runtime, ProposeOptions(**wrong))
