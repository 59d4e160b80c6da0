"""What evaluations keep: no image is predicted and no region encoded twice, no result changes, nothing out of date is read."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg.clip.embedding_files import FOLDER
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import with_regions
from ovseg.core import masks, tables
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import prediction_store
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.oracles import gt_masks
from ovseg.evaluation.region_store import ImageRegions, embed_regions
from ovseg.evaluation.settings import three_classifiers
from ovseg.evaluation.store import Store, open_store, region_folder
from ovseg.segmentation.region_encoder import RegionEncoder
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Row, Toys
from tests.evaluation.conftest import NAMES, Passes, changed_copy, draw_benchmark
from tests.towers import with_pseudo_texts
from tests.toys import noise

OPTIONS = SegmentOptions(templates="single")
IMAGES = 2


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return draw_benchmark(tmp_path / "drawn", IMAGES)


def run(benchmark: Path, toys: Toys, work: Path, out: Path, **changes: Any) -> list[Row]:
    options = {"options": OPTIONS, "crop": CropOptions(), "oracles": False, **changes}
    settings = options.pop("settings", three_classifiers("clip", 0.4, 0.7))
    network, clips = options.pop("network", toys.network), options.pop("clips", {"clip": toys.clip})
    evaluate(benchmark, network, clips, out, Runtime(workers=1, work=work, fresh=True), settings, **options)
    return list(tables.rows(out, "segmentations"))


def stored(work: Path) -> dict[Path, int]:
    """The files of predictions and embeddings, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in work.glob("*/*/*.safetensors")}


def distinct_regions(benchmark: Path, toys: Toys, thresholds: tuple[float, ...]) -> int:
    """The number of different masks of all images: proposals of each threshold, and ground truth."""
    opened, segmenter = read_benchmark(benchmark), Segmenter.load(toys.network, toys.clip)
    found = 0
    for item in range(len(opened.items)):
        pixels, gt = opened.read(item)
        output = segmenter.network.predict(pixels)
        rles = {rle for threshold in thresholds for rle in segmenter.binarize(pixels, output, threshold)}
        found += len((rles | set(gt_masks(gt, opened.ignore)[1])) - {None})
    return found


def test_the_network_sees_each_image_once_and_clip_each_distinct_region_once_in_common_passes(
    benchmark: Path, toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = (0.4, 0.5)
    wanted = distinct_regions(benchmark, toys, thresholds)
    settings = [setting for threshold in thresholds for setting in three_classifiers("clip", threshold, 0.7)]
    passes = Passes(monkeypatch)
    run(benchmark, toys, tmp_path / "work", tmp_path / "out", settings=settings, oracles=True)
    assert len(passes.images) == IMAGES
    assert passes.crops == [wanted]
    shared = draw_benchmark(tmp_path / "shared", IMAGES, seen=None)  # the same images and labels
    run(shared, toys, tmp_path / "work", tmp_path / "other", settings=settings, oracles=True)
    assert len(passes.images) == IMAGES
    assert passes.crops == [wanted]


def test_a_benchmark_with_other_labels_on_the_same_images_encodes_its_new_regions_alone(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    run(benchmark, toys, tmp_path / "work", tmp_path / "first")
    run(benchmark, toys, tmp_path / "work", tmp_path / "second", oracles=True)
    opened = read_benchmark(benchmark)
    gt = sum(len(gt_masks(opened.read(item)[1], opened.ignore)[0]) for item in range(IMAGES))
    assert len(passes.images) == IMAGES
    assert passes.crops[1:] == [gt]


def test_other_names_templates_and_weights_need_neither_network_nor_clip(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    run(benchmark, toys, tmp_path / "work", tmp_path / "first")
    files, crops = stored(tmp_path / "work"), sum(passes.crops)
    metadata = json.loads((benchmark / "benchmark.json").read_text())
    metadata["names"] = [[name, f"small {name}"] for name in NAMES]
    (benchmark / "benchmark.json").write_text(json.dumps(metadata))
    other = SegmentOptions(templates="none", weight_seen=0.2, seen_penalty=0.3)
    run(benchmark, toys, tmp_path / "work", tmp_path / "second", options=other)
    assert stored(tmp_path / "work") == files
    assert (len(passes.images), sum(passes.crops)) == (IMAGES, crops)


def tables_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def test_a_table_has_the_same_bytes_with_an_empty_a_full_and_a_partly_filled_store(
    benchmark: Path, toys: Toys, tmp_path: Path
) -> None:
    """Partly filled: by another benchmark, and by a run that was killed between two files."""
    work = tmp_path / "work"
    run(benchmark, toys, work, tmp_path / "empty", oracles=True)
    files = sorted(stored(work))
    assert len(files) == 2 * IMAGES
    run(benchmark, toys, work, tmp_path / "full", oracles=True)
    for i, file in enumerate(files):
        part = tmp_path / f"part{i}"
        shutil.copytree(work, part)
        (part / file.relative_to(work)).unlink()
        run(benchmark, toys, part, tmp_path / f"without{i}", oracles=True)
    run(benchmark, toys, tmp_path / "elsewhere", tmp_path / "other", settings=three_classifiers("clip", 0.5, 0.7))
    run(benchmark, toys, tmp_path / "elsewhere", tmp_path / "partly", oracles=True)
    expected = tables_of(tmp_path / "empty")
    assert expected
    for out in ("full", "partly", *(f"without{i}" for i in range(len(files)))):
        assert tables_of(tmp_path / out) == expected, out


def test_a_run_that_dies_while_it_stores_leaves_nothing_that_changes_the_next_one(
    benchmark: Path, toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(benchmark, toys, tmp_path / "elsewhere", tmp_path / "whole", oracles=True)
    replace, done = Path.replace, []

    def die_at_the_third(self: Path, target: Path) -> Path:
        if target.suffix == ".safetensors":
            done.append(target)
            if len(done) == 3:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run(benchmark, toys, tmp_path / "work", tmp_path / "out", oracles=True)
    assert len(stored(tmp_path / "work")) == 2
    assert run(benchmark, toys, tmp_path / "work", tmp_path / "out", oracles=True) == expected


@pytest.mark.parametrize("damage", [b"", b"\x10\0\0\0\0\0\0\0{", b"no tensors"])
@pytest.mark.parametrize("folder", [FOLDER, prediction_store.FOLDER])
def test_a_damaged_file_is_computed_again(
    benchmark: Path, toys: Toys, tmp_path: Path, folder: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    computed = run(benchmark, toys, tmp_path / "work", tmp_path / "computed")
    path = sorted((tmp_path / "work" / folder).rglob("*.safetensors"))[0]
    before = path.read_bytes()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "ovseg"):
        assert run(benchmark, toys, tmp_path / "work", tmp_path / "again") == computed
    assert path.read_bytes() == before
    assert str(path) in caplog.text


def test_the_store_of_another_network_or_clip_is_not_used(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    run(benchmark, toys, tmp_path / "work", tmp_path / "first")
    crops = len(passes.crops)
    network = changed_copy(toys.network, "model.safetensors", tmp_path / "network")
    run(benchmark, toys, tmp_path / "work", tmp_path / "second", network=network)
    assert len(passes.images) == 2 * IMAGES
    clip = changed_copy(toys.clip, "open_clip_model.safetensors", tmp_path / "clip")
    run(benchmark, toys, tmp_path / "work", tmp_path / "third", clips={"clip": clip})
    assert len(passes.images) == 2 * IMAGES
    assert len(passes.crops) > crops


def test_models_with_the_same_weights_share_embeddings(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes
) -> None:
    settings = [setting for name in "ab" for setting in three_classifiers(name, 0.4, 0.7)]
    rows = run(
        benchmark, toys, tmp_path / "work", tmp_path / "out", clips=dict.fromkeys("ab", toys.clip), settings=settings
    )
    assert len(passes.crops) == 1
    of_model = [
        [(row["item"], row["confusion_index"], row["pixels"]) for row in rows if row["model"] == name] for name in "ab"
    ]
    assert of_model[0] == of_model[1]


def test_masks_larger_than_the_limit_are_not_kept_but_predicted_again(
    benchmark: Path, toys: Toys, tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_store, "LARGEST", 1)
    first = run(benchmark, toys, tmp_path / "work", tmp_path / "first")
    assert run(benchmark, toys, tmp_path / "work", tmp_path / "second") == first
    assert len(passes.images) == 2 * IMAGES
    assert not (tmp_path / "work" / prediction_store.FOLDER).exists()


@pytest.fixture(scope="module")
def segmenter(toys: Toys) -> Segmenter:
    return Segmenter.load(toys.network, toys.clip, options=OPTIONS)


def corners(pixels: ImageArray, *sides: int) -> Iterator[bytes]:
    """Squares at the upper left of an image."""
    for side in sides:
        mask = np.zeros(pixels.shape[:2], bool)
        mask[:side, :side] = True
        yield masks.encode(mask)


def test_embeddings_are_those_of_each_image_alone_with_nothing_for_masks_without_a_pixel(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    images = [noise(0), noise(1)]
    regions = [
        ImageRegions(images[0], "first", (None, *corners(images[0], 8, 30))),
        ImageRegions(images[1], "second", tuple(corners(images[1], 8))),
        ImageRegions(images[1], "second", (None,)),
    ]
    embedded = embed_regions({"clip": segmenter.encoder}, [("clip", one) for one in regions], {"clip": tmp_path})
    for one in regions:
        alone = segmenter.embed_regions(segmenter.crop_regions(one.pixels, one.rles))
        assert torch.equal(embedded["clip", one], alone)
        assert len(alone) == int(one.valid.sum())


def test_a_mask_that_is_encoded_with_others_in_one_pass_is_stored_with_them(
    segmenter: Segmenter, tmp_path: Path, passes: Passes
) -> None:
    clip = with_regions(segmenter.clip, RegionSettings("region_tokens", start_block=0, image_size=16))
    one_pass = {"clip": replace(segmenter, clip=clip).encoder}
    pixels = noise(0)
    few = ImageRegions(pixels, "image", tuple(corners(pixels, 8)))
    many = ImageRegions(pixels, "image", (None, *corners(pixels, 8, 30)))
    first = embed_regions(one_pass, [("clip", few), ("clip", many)], {"clip": tmp_path})
    assert len(passes.crops) == 2
    again = embed_regions(one_pass, [("clip", many), ("clip", few)], {"clip": tmp_path})
    assert len(passes.crops) == 2
    for regions in (few, many):
        alone = one_pass["clip"].embed(one_pass["clip"].crop_regions(pixels, regions.rles))
        assert torch.equal(first["clip", regions], alone)
        assert torch.equal(again["clip", regions], alone)


def test_more_masks_than_a_batch_are_encoded_in_whole_passes(toys: Toys, tmp_path: Path, passes: Passes) -> None:
    segmenter = Segmenter.load(toys.network, toys.clip, options=OPTIONS, batch_size=32)
    pixels = noise(0)
    regions = ImageRegions(pixels, "image", tuple(corners(pixels, *range(4, 40))))
    embed_regions({"clip": segmenter.encoder}, [("clip", regions)], {"clip": tmp_path})
    assert passes.crops == [32, 4]


def test_a_model_is_its_weights_and_an_encoder_its_view_precision_recipe_and_kind_of_device_too(
    toys: Toys, tmp_path: Path
) -> None:
    def opened(network: Path = toys.network, clip: Path = toys.clip, device: str = "cpu", **options: Any) -> Store:
        crop = CropOptions(fill=options.pop("fill", "mean"))
        return open_store(tmp_path, network, {"clip": clip}, SegmentOptions(**options), crop, device)

    def encoder(**changes: Any) -> Path:
        return opened(**changes).clips["clip"]

    clip = changed_copy(toys.clip, "open_clip_model.safetensors", tmp_path / "clip")
    others: list[Mapping[str, Any]] = [
        {"clip": clip},
        {"device": "cuda:1"},
        {"view": "mask"},
        {"precision": "bf16" if SegmentOptions().precision == "fp32" else "fp32"},
        {"fill": "zero"},
    ]
    assert len({encoder(), *(encoder(**changes) for changes in others)}) == 6
    of_measure = {
        prompts: region_folder(tmp_path, toys.clip, CropOptions(), "cpu", prompts=prompts) for prompts in (True, False)
    }
    assert of_measure[True] == encoder(precision="fp32")
    assert of_measure[False] not in (of_measure[True], encoder())
    assert encoder(clip=Path(shutil.copytree(toys.clip, tmp_path / "copied"))) == encoder()
    assert encoder(device="cuda:0") == encoder(device="cuda:1")
    assert encoder(templates="none", weight_seen=0.5, seen_penalty=0.1) == encoder()
    network = changed_copy(toys.network, "model.safetensors", tmp_path / "network")
    predictions = [opened(), opened(network=network), opened(device="cuda"), opened(network_precision="bf16")]
    assert len({store.network for store in predictions}) == 4
    assert opened(clip=clip, view="mask").network == opened(fill="zero", precision="bf16").network


def test_the_cells_of_an_image_are_encoded_and_stored_with_its_masks(tmp_path: Path, passes: Passes) -> None:
    """A CLIP with pseudo-texts needs them to compare regions and texts; without any mask there is nothing to compare."""
    encoder = {"clip": RegionEncoder(with_pseudo_texts(tmp_path / "clip"))}
    pixels = noise(0)
    some, none = ImageRegions(pixels, "image", (None, *corners(pixels, 8, 30))), ImageRegions(pixels, "image", (None,))
    first = embed_regions(encoder, [("clip", some), ("clip", none)], {"clip": tmp_path / "store"})
    assert torch.equal(first["clip", some], encoder["clip"].embed(encoder["clip"].crop_regions(pixels, some.rles)))
    assert len(first["clip", some]) == 2 + 4 and not len(first["clip", none])
    assert len(passes.crops) == 2
    again = embed_regions(encoder, [("clip", some), ("clip", none)], {"clip": tmp_path / "store"})
    assert torch.equal(again["clip", some], first["clip", some]) and len(passes.crops) == 2
