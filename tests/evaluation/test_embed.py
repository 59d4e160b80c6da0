"""The table of `embed`: evaluations that read it need no CLIP for images, and no result depends on what it lacks."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.embedding_files import image_hash
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.save import model_config
from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import CalibrateOptions, CropOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import benchmark_units, region_store, region_table
from ovseg.evaluation.calibrate import calibrate
from ovseg.evaluation.embed import embed
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.oracles import gt_masks
from ovseg.evaluation.region_rows import embeddings_of_unit, to_rows
from ovseg.evaluation.region_store import ImageRegions, embed_regions
from ovseg.evaluation.settings import three_classifiers
from ovseg.segmentation.region_encoder import RegionEncoder
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Row, Toys, digests
from tests.evaluation.conftest import IGNORE, NAMES, Passes, changed_copy, draw_benchmark
from tests.towers import with_pseudo_texts
from tests.toys import noise

OPTIONS = SegmentOptions(templates="single")
IMAGES = 3
THRESHOLDS: Mapping[str, Sequence[float]] = {"first": [0.4], "second": [0.5, 0.3]}


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return draw_benchmark(tmp_path / "drawn", IMAGES)


@pytest.fixture
def clips(toys: Toys, tmp_path: Path) -> dict[str, Path]:
    return {"first": toys.clip, "second": changed_copy(toys.clip, "open_clip_model.safetensors", tmp_path / "other")}


def embedded(benchmark: Path, toys: Toys, clips: Mapping[str, Path], out: Path, work: Path, **changes: Any) -> Path:
    """The table of the toys."""
    options: dict[str, Any] = {"options": OPTIONS, "crop": CropOptions(), **changes}
    thresholds = options.pop("thresholds", {name: THRESHOLDS[name] for name in clips})
    embed(benchmark, toys.network, clips, out, Runtime(workers=1, work=work), thresholds, **options)
    return out


def evaluated(benchmark: Path, toys: Toys, clips: Mapping[str, Path], out: Path, embeddings: Path | None) -> list[Row]:
    """The rows of an evaluation that keeps and finds nothing of others."""
    settings = [
        setting
        for name in clips
        for threshold in THRESHOLDS[name]
        for setting in three_classifiers(name, threshold, 0.7)
    ]
    runtime = Runtime(workers=1, work=out.with_name(f"{out.name} work"))
    evaluate(
        benchmark,
        toys.network,
        clips,
        out,
        runtime,
        settings,
        options=OPTIONS,
        crop=CropOptions(),
        embeddings=embeddings,
    )
    return list(tables.rows(out, "segmentations"))


def test_an_evaluation_with_the_table_runs_clip_on_no_image_and_has_the_same_result_whatever_the_table_lacks(
    benchmark: Path,
    toys: Toys,
    clips: dict[str, Path],
    tmp_path: Path,
    passes: Passes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it lacks is said once in each process."""
    region_store._say_that_some_are_encoded.cache_clear()
    table = embedded(benchmark, toys, clips, tmp_path / "table", tmp_path / "work")
    encoded = len(passes.crops)
    assert encoded
    rows = evaluated(benchmark, toys, clips, tmp_path / "out", table)
    assert len(passes.crops) == encoded
    assert evaluated(benchmark, toys, clips, tmp_path / "without", None) == rows
    assert "lacks masks" not in caplog.text
    for name, fewer in (
        ("no thresholds", {"thresholds": {"first": [], "second": []}, "ground_truth": False}),
        ("one threshold", {"thresholds": {"first": [0.4], "second": [0.5]}}),
        ("fewer images", {"limit": 1}),
    ):
        lacking = embedded(benchmark, toys, clips, tmp_path / name, tmp_path / f"{name} work", **fewer)
        before = len(passes.crops)
        assert evaluated(benchmark, toys, clips, tmp_path / f"{name} out", lacking) == rows
        assert len(passes.crops) > before
    assert caplog.text.count("the table of embeddings lacks masks, which are encoded here") == 1


def test_a_calibration_with_the_table_runs_clip_on_no_image(
    benchmark: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, passes: Passes
) -> None:
    options = CalibrateOptions(benchmark=benchmark, weights=[0.2, 0.8], thresholds=[0.3, 0.5])
    thresholds = dict.fromkeys(clips, options.thresholds)
    table = embedded(
        benchmark, toys, clips, tmp_path / "table", tmp_path / "work", thresholds=thresholds, ground_truth=False
    )
    encoded = len(passes.crops)
    reports = {}
    for metric in ("miou", "pacc"):
        swept = options.model_copy(update={"metric": metric})
        runtime = Runtime(workers=1, work=tmp_path / metric)
        calibrate(
            toys.network,
            clips,
            tmp_path / f"{metric} table",
            tmp_path / f"{metric} report",
            runtime,
            swept,
            options=OPTIONS,
            crop=CropOptions(),
            embeddings=table,
        )
        reports[metric] = json.loads((tmp_path / f"{metric} report" / "choice.json").read_text())
    assert len(passes.crops) == encoded
    assert reports["miou"].keys() == reports["pacc"].keys() == {"first", "second"}


def test_a_row_is_a_distinct_mask_of_an_image_with_the_unit_vector_of_its_crop(
    benchmark: Path, toys: Toys, tmp_path: Path
) -> None:
    clip = {"second": toys.clip}
    table = embedded(benchmark, toys, clip, tmp_path / "table", tmp_path / "work")
    rows = list(tables.rows(table, region_table.TABLE))
    assert [row["item"] for row in rows] == sorted(row["item"] for row in rows)
    opened, segmenter = read_benchmark(benchmark), Segmenter.load(toys.network, toys.clip, options=OPTIONS)
    for item in range(IMAGES):
        pixels, labels = opened.read(item)
        output = segmenter.network.predict(pixels)
        wanted = set(gt_masks(labels, IGNORE)[1])
        wanted |= {rle for above in THRESHOLDS["second"] for rle in segmenter.binarize(pixels, output, above) if rle}
        of_item = [row for row in rows if row["item"] == item]
        assert {row["image"] for row in of_item} == {image_hash(pixels)}
        assert {row["model"] for row in of_item} == {"second"}
        assert sorted(row["mask"] for row in of_item) == sorted(wanted)
        alone = segmenter.embed_regions(segmenter.crop_regions(pixels, [row["mask"] for row in of_item]))
        vectors = np.array([row["vector"] for row in of_item], np.float16)
        assert np.array_equal(vectors, alone.half().numpy())
        assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=1e-3)


def test_a_table_has_the_same_bytes_however_it_was_made(
    benchmark: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, by a run that continues one that was killed, and with all regions kept by an earlier run."""
    monkeypatch.setattr(benchmark_units, "ITEMS_PER_UNIT", 1)
    work = tmp_path / "work"
    whole = digests(embedded(benchmark, toys, clips, tmp_path / "whole", work))
    assert len(tables.parts(tmp_path / "whole")) == IMAGES
    (scratch,) = work.glob("embed-*")
    (scratch / "00001.done.json").unlink()
    (scratch / "00002.parquet").unlink()
    (scratch / "00002.parquet").write_bytes(b"half a file")
    shutil.rmtree(tmp_path / "whole")
    assert digests(embedded(benchmark, toys, clips, tmp_path / "whole", work)) == whole
    shutil.rmtree(scratch)
    shutil.rmtree(tmp_path / "whole")
    assert digests(embedded(benchmark, toys, clips, tmp_path / "whole", work)) == whole


def test_units_are_read_by_the_evaluation_in_the_same_order_and_an_absent_or_empty_one_has_no_rows(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three units of one image: the first is read, all images of the second are broken, the third is beyond the limit."""
    monkeypatch.setattr(benchmark_units, "ITEMS_PER_UNIT", 1)
    clip = {"first": toys.clip}
    (tmp_path / "drawn" / "images" / "1.png").write_bytes(b"no image")
    table = embedded(benchmark, toys, clip, tmp_path / "table", tmp_path / "work", limit=2)
    assert [len(tables.read_part(part, region_table.TABLE)) > 0 for part in tables.parts(table)] == [True, False]
    before = len(passes.crops)
    rows = evaluated(benchmark, toys, clip, tmp_path / "out", table)
    assert len(passes.crops) == before + 1
    assert {row["item"] for row in rows} == {0, 2}


def test_two_equal_images_are_embedded_once_and_both_are_evaluated(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    shutil.copyfile(tmp_path / "drawn" / "images" / "0.png", tmp_path / "drawn" / "images" / "2.png")
    clip = {"first": toys.clip}
    table = embedded(benchmark, toys, clip, tmp_path / "table", tmp_path / "work")
    assert {row["item"] for row in tables.rows(table, region_table.TABLE)} == {0, 1}
    encoded = len(passes.crops)
    assert {row["item"] for row in evaluated(benchmark, toys, clip, tmp_path / "out", table)} == {0, 1, 2}
    assert len(passes.crops) == encoded


def test_a_clip_that_sees_whole_images_is_not_run_by_the_evaluation_either(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    """Beside one that sees crops; what was encoded in one pass is found although it is named after the other masks, too."""
    clip = load_adapted(toys.clip)
    config, settings = model_config(f"local-dir:{toys.clip}"), RegionSettings("region_tokens", start_block=0)
    save_adapted(clip.model, config, None, {}, tmp_path / "one pass", regions=settings)
    both = {"first": toys.clip, "second": tmp_path / "one pass"}
    table = embedded(benchmark, toys, both, tmp_path / "table", tmp_path / "work")
    encoded = len(passes.crops)
    rows = evaluated(benchmark, toys, both, tmp_path / "out", table)
    assert len(passes.crops) == encoded
    assert rows == evaluated(benchmark, toys, both, tmp_path / "without", None)
    assert len(passes.crops) > encoded


def test_thresholds_are_those_of_the_models_that_are_embedded(benchmark: Path, toys: Toys, tmp_path: Path) -> None:
    """A model without thresholds embeds the ground truth alone; thresholds of other models do not count."""
    thresholds = {"third": [0.4]}
    table = embedded(
        benchmark, toys, {"first": toys.clip}, tmp_path / "table", tmp_path / "work", thresholds=thresholds
    )
    opened = read_benchmark(benchmark)
    gt = [rle for item in range(IMAGES) for rle in gt_masks(opened.read(item)[1], IGNORE)[1]]
    assert sorted(row["mask"] for row in tables.rows(table, region_table.TABLE)) == sorted(gt)


def test_of_a_trained_model_beside_others_only_its_own_regions_are_encoded(
    benchmark: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, passes: Passes
) -> None:
    embedded(benchmark, toys, clips, tmp_path / "table", tmp_path / "work")
    before, rows = sum(passes.crops), list(tables.rows(tmp_path / "table", region_table.TABLE))
    assert before == len(rows)
    trained = changed_copy(clips["second"], "open_clip_model.safetensors", tmp_path / "trained")
    weights = (trained / "open_clip_model.safetensors").read_bytes()
    (trained / "open_clip_model.safetensors").write_bytes(weights[:-2] + b"\1" + weights[-1:])
    embedded(benchmark, toys, {**clips, "second": trained}, tmp_path / "again", tmp_path / "work")
    assert sum(passes.crops) - before == sum(row["model"] == "second" for row in rows)


def test_a_change_of_names_or_of_what_follows_the_embeddings_leaves_the_table_as_it_is(
    benchmark: Path, toys: Toys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = {"first": toys.clip}
    embedded(benchmark, toys, clip, tmp_path / "table", tmp_path / "work")
    metadata = json.loads((benchmark / "benchmark.json").read_text())
    metadata["names"] = [[name, f"small {name}"] for name in NAMES]
    (benchmark / "benchmark.json").write_text(json.dumps(metadata))
    other = SegmentOptions(templates="vild", synonyms="mean", weight_seen=0.1, invalid="boost")
    with caplog.at_level(logging.INFO, "ovseg"):
        embedded(benchmark, toys, clip, tmp_path / "table", tmp_path / "work", options=other)
    assert "done before" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clips": ("second",)}, "no embeddings of the model 'first', only of second"),
        (
            {"crop": CropOptions(fill="zero")},
            'crop={"antialias": true, "fill": "zero"} instead of {"antialias": true, "fill": "mean"}',
        ),
        ({"options": SegmentOptions(view="mask")}, 'view="mask" instead of "crop-and-mask"'),
        ({"swapped": True}, "of the model 'first' with clip="),
    ],
)
def test_a_table_of_another_clip_or_another_recipe_is_refused_with_the_stage_to_run(
    benchmark: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    made = {name: clips[name] for name in changes.pop("clips", clips)}
    if changes.pop("swapped", False):
        made = {"first": clips["second"], "second": clips["first"]}
    table = embedded(benchmark, toys, made, tmp_path / "table", tmp_path / "work", **changes)
    with pytest.raises(OvsegError) as raised:
        evaluated(benchmark, toys, {"first": clips["first"]}, tmp_path / "out", table)
    assert said in str(raised.value) and "`embed` for a benchmark" in str(raised.value)


def test_without_a_table_the_stage_to_run_is_named(benchmark: Path, toys: Toys, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"no embeddings in .*nothing; run the stage that writes it: `embed_heldout`"):
        evaluated(benchmark, toys, {"first": toys.clip}, tmp_path / "out", tmp_path / "nothing")


def test_images_that_cannot_be_read_are_dropped_and_listed(benchmark: Path, toys: Toys, tmp_path: Path) -> None:
    (tmp_path / "drawn" / "images" / "1.png").write_bytes(b"no image")
    table = embedded(benchmark, toys, {"first": toys.clip}, tmp_path / "table", tmp_path / "work")
    counts = tables.read_counts(table)
    (failed,) = tables.rows(table / "failures", "failures")
    assert (counts["images"], counts[f"dropped.{failed['reason']}"], failed["image_id"]) == (IMAGES - 1, 1, 1)
    assert {row["item"] for row in tables.rows(table, region_table.TABLE)} == {0, 2}
    rows = evaluated(benchmark, toys, {"first": toys.clip}, tmp_path / "out", table)
    assert {row["item"] for row in rows} == {0, 2}


def test_the_cells_that_pseudo_texts_need_are_rows_of_the_table(tmp_path: Path, passes: Passes) -> None:
    encoders = {"clip": RegionEncoder(with_pseudo_texts(tmp_path / "clip"))}
    pixels = noise(0)
    square = np.zeros(pixels.shape[:2], bool)
    square[:8, :8] = True
    regions = ImageRegions(pixels, image_hash(pixels), (None, masks.encode(square)))
    embeddings = embed_regions(encoders, [("clip", regions)], None)
    rows = to_rows(encoders, embeddings, {regions.image: 7})
    assert rows.masks == [masks.encode(square), *(f"cell {cell}".encode() for cell in range(4))]
    assert set(rows.items) == {7}
    region_table.write(tmp_path, "00000", rows, "fingerprint", {}, {})
    kept = embeddings_of_unit(tmp_path, "00000", ["clip"])
    read = embed_regions(encoders, [("clip", regions)], None, kept)
    assert len(passes.crops) == 1
    assert torch.equal(read["clip", regions], embeddings["clip", regions].half().float())
    assert not embeddings_of_unit(tmp_path, "00000", ["another"]) and not embeddings_of_unit(
        tmp_path, "00001", ["clip"]
    )
