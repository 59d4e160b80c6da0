"""Running a benchmark: its table equals segmenting by hand, however it is interrupted; unreadable items are dropped."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.save import model_config
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import ITEMS, LABELS, read_benchmark, write_benchmark
from ovseg.datasets.classes import CLASS_TABLES, read_classes
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import benchmark_units
from ovseg.evaluation.benchmark_metrics import benchmark_metrics, class_ious, gt_areas
from ovseg.evaluation.benchmark_report import write_benchmark_report
from ovseg.evaluation.calibrate import Choice
from ovseg.evaluation.confusion import class_totals, confusion
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.metrics import accuracies, segmentation_metrics
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.evaluation.predictions import embed_classes
from ovseg.evaluation.settings import three_classifiers
from ovseg.segmentation.segmenter import Segmenter, clip_probs
from tests.conftest import Row, Toys, digests
from tests.evaluation.conftest import IGNORE, IMAGES, NAMES, SEEN, draw_benchmark
from tests.toys import noise

SETTINGS = {
    name: three_classifiers(name, *values) for name, values in {"plain": (0.5, 0.7), "prompted": (0.4, 0.6)}.items()
}
OPTIONS = SegmentOptions(templates="single", weight_seen=0.3, seen_penalty=0.1)


@pytest.fixture(scope="module")
def clips(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CLIP, and the same with mask prompts."""
    folder = tmp_path_factory.mktemp("prompted")
    clip = load_adapted(toys.clip)
    prompts = new_prompts(clip.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(clip.model, model_config(f"local-dir:{toys.clip}"), prompts, {}, folder)
    return {"plain": toys.clip, "prompted": folder}


def run(benchmark: Path, toys: Toys, clips: Mapping[str, Path], out: Path, runtime: Runtime, **changes: Any) -> Any:
    settings = changes.pop("settings", [setting for settings in SETTINGS.values() for setting in settings])
    arguments = {"options": OPTIONS, "crop": CropOptions(), **changes}
    return evaluate(benchmark, toys.network, clips, out, runtime, settings, **arguments)


@pytest.fixture(scope="module")
def table(drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table of the five images; to be read, not written."""
    folder = tmp_path_factory.mktemp("table")
    counts = run(drawn, toys, clips, folder / "out", Runtime(workers=1, batch_size=3, work=folder / "work"))
    assert counts == {"images": IMAGES}
    return folder / "out"


def rows_of(folder: Path) -> list[Row]:
    return list(tables.rows(folder, "segmentations"))


Setting = tuple[str, float | None, str]
"""Model, mask threshold and classifier of a row."""


def setting_of(row: Row) -> Setting:
    return row["model"], row["threshold"], row["classifier"]


def counts_by_setting(rows: list[Row]) -> dict[Setting, dict[int, dict[int, int]]]:
    """setting -> item -> confusion index -> pixels."""
    counts: dict[Setting, dict[int, dict[int, int]]] = {}
    for row in rows:
        pixels = dict(zip(row["confusion_index"], row["pixels"], strict=True))
        counts.setdefault(setting_of(row), {})[row["item"]] = pixels
    return counts


def test_each_image_has_a_row_for_every_setting_and_one_row_for_a_classifier_that_needs_no_clip(table: Path) -> None:
    settings = [
        ("", None, "proposals"),
        ("", 0.4, "oracle_labels"),
        *(
            (name, threshold, classifier)
            for name, threshold in (("plain", 0.5), ("prompted", 0.4))
            for classifier in ("clip", "ensemble")
        ),
        ("plain", None, "oracle_masks"),
        ("prompted", None, "oracle_masks"),
    ]
    assert Counter((row["item"], setting_of(row)) for row in rows_of(table)) == Counter(
        (item, setting) for item in range(IMAGES) for setting in settings
    )


def test_the_rows_equal_segmenting_each_image_by_hand(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path]
) -> None:
    benchmark, counts = read_benchmark(drawn), counts_by_setting(rows_of(table))
    seen = torch.tensor(SEEN)
    plain = Segmenter.load(toys.network, clips["plain"], mask_threshold=0.5, batch_size=100, options=OPTIONS)
    prompted = replace(plain, clip=load_adapted(clips["prompted"]), mask_threshold=0.4)
    vocabulary = plain.vocabulary(benchmark.names)
    for item in range(IMAGES):
        pixels, gt = benchmark.read(item)
        output = plain.network.predict(pixels)
        for name, model, weight in (("plain", plain, 0.7), ("prompted", prompted, 0.6)):
            regions = model.crop_regions(pixels, model.binarize(pixels, output))
            probs = model.classify(output, regions, vocabulary)
            maps = {
                (name, model.mask_threshold, "clip"): model.semantic_map(pixels, output, model.ensemble(probs, 1.0)),
                ("", None, "proposals"): model.semantic_map(pixels, output, model.ensemble(probs, 0.0)),
                (name, model.mask_threshold, "ensemble"): model.semantic_map(
                    pixels, output, model.ensemble(probs, weight, seen), seen
                ),
            }
            if name == "prompted":
                scores = oracle_scores(regions.rles, gt, IGNORE, len(NAMES))
                maps["", 0.4, "oracle_labels"] = model.semantic_map(pixels, output, scores)
            for setting, (pred, _) in maps.items():
                index, pixel_counts = confusion(gt, pred, len(NAMES), IGNORE)
                expected = dict(zip(index.tolist(), pixel_counts.tolist(), strict=True))
                assert counts[setting][item] == expected, setting


def test_each_clip_is_compared_with_its_own_texts(drawn: Path, toys: Toys) -> None:
    segmenter = Segmenter.load(toys.network, toys.clip, options=OPTIONS)
    weights = RegionSettings(templates="single", template_weights=(0.5,))  # half the similarity to its only template
    weighted = replace(segmenter, clip=replace(segmenter.clip, regions=weights))
    benchmark = read_benchmark(drawn)
    plain, halved, last = embed_classes(
        {"plain": segmenter, "weighted": weighted, "last": segmenter}, benchmark
    ).values()
    assert torch.equal(halved.texts, 0.5 * plain.texts)
    assert torch.equal(plain.texts, segmenter.vocabulary(benchmark.names).texts)
    assert last is plain


def test_the_oracle_of_ground_truth_masks_equals_classifying_each_by_hand(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path]
) -> None:
    benchmark = read_benchmark(drawn)
    computed = benchmark_metrics(table, benchmark, 0)
    for name, path in clips.items():
        model = Segmenter.load(toys.network, path, options=OPTIONS)
        vocabulary = model.vocabulary(benchmark.names)
        all_gt: list[int] = []
        all_pred: list[int] = []
        counts = []
        for item in range(IMAGES):
            image, gt = benchmark.read(item)
            gt_classes, rles = gt_masks(gt, IGNORE)
            regions = model.crop_regions(image, rles)
            pred_classes = clip_probs(regions.valid, model.embed_regions(regions), vocabulary).argmax(1).tolist()
            all_gt, all_pred = all_gt + gt_classes, all_pred + pred_classes
            counts.append(confusion(gt, relabel(gt, gt_classes, pred_classes, 6), 6, IGNORE))
        totals = class_totals([index for index, _ in counts], [pixels for _, pixels in counts], 6)
        expected = segmentation_metrics(totals, np.array(SEEN))
        expected |= accuracies(np.array(all_gt), np.array(all_pred), 6, np.array(SEEN))
        assert computed[name]["oracle_masks"] == pytest.approx(expected)


def test_metrics_are_those_of_the_rows_and_a_classifier_that_needs_no_clip_is_repeated_for_every_model(
    table: Path, drawn: Path
) -> None:
    benchmark = read_benchmark(drawn)
    computed, counts = benchmark_metrics(table, benchmark, 50), counts_by_setting(rows_of(table))
    assert computed.keys() == {"plain", "prompted"}
    for name, threshold in (("plain", 0.5), ("prompted", 0.4)):
        assert computed[name].keys() == {"clip", "proposals", "ensemble", "oracle_masks", "oracle_labels"}
        for classifier, setting in (
            ("clip", (name, threshold, "clip")),
            ("proposals", ("", None, "proposals")),
            ("ensemble", (name, threshold, "ensemble")),
            ("oracle_labels", ("", 0.4, "oracle_labels")),
        ):
            items = counts[setting].values()
            totals = class_totals([np.array([*i]) for i in items], [np.array([*i.values()]) for i in items], len(NAMES))
            expected = segmentation_metrics(totals, np.array(SEEN))
            metrics = computed[name][classifier]
            assert {key: metrics[key] for key in expected} == pytest.approx(expected)
            assert metrics["miou_interval"][0] <= metrics["miou"] <= metrics["miou_interval"][1]
            assert metrics.keys() - expected.keys() == {"miou_interval", "miou_gt_interval"}


def test_an_ensemble_of_weight_0_of_one_model_is_not_used_for_another(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    """`calibrate` may choose the weight 0 for one model and 0.7 for another."""
    for i, weights in enumerate(({"plain": 0.7, "prompted": 0.0}, {"plain": 0.0, "prompted": 0.7})):
        settings = [s for name, weight in weights.items() for s in three_classifiers(name, 0.5, weight)]
        options = SegmentOptions(templates="single")
        run(drawn, toys, clips, tmp_path / str(i), runtime, settings=settings, oracles=False, options=options)
        metrics = benchmark_metrics(tmp_path / str(i), read_benchmark(drawn), 0)
        for name, weight in weights.items():
            assert (metrics[name]["ensemble"] == metrics[name]["proposals"]) == (weight == 0), (name, weights)


def test_the_order_of_images_does_not_matter(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    reordered = Path(shutil.copytree(drawn.parent, tmp_path / "reordered")) / "set"
    head, *lines = (reordered / ITEMS).read_text().splitlines()
    (reordered / ITEMS).write_text("\n".join([head, *lines[::-1]]) + "\n")
    run(reordered, toys, clips, tmp_path / "out", runtime)
    assert benchmark_metrics(tmp_path / "out", read_benchmark(reordered), 0) == benchmark_metrics(
        table, read_benchmark(drawn), 0
    )


def test_units_and_batches_of_any_size_give_the_same_rows(
    table: Path,
    drawn: Path,
    toys: Toys,
    clips: dict[str, Path],
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark_units, "ITEMS_PER_UNIT", 2)
    run(drawn, toys, clips, tmp_path / "out", Runtime(workers=2, batch_size=64, work=work))
    assert len(tables.parts(tmp_path / "out")) == 3
    assert rows_of(tmp_path / "out") == rows_of(table)
    benchmark = read_benchmark(drawn)
    assert benchmark_metrics(tmp_path / "out", benchmark, 5) == benchmark_metrics(table, benchmark, 5)


def test_a_run_that_was_cut_off_continues_to_the_same_bytes(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_units, "ITEMS_PER_UNIT", 2)
    run(drawn, toys, clips, tmp_path / "whole", runtime)
    (scratch,) = runtime.work.glob("evaluate-*")
    (scratch / "00001.done.json").unlink()
    for name in ("00001", "00002"):  # one without its mark, one that was damaged afterwards
        (scratch / f"{name}.parquet").unlink()
        (scratch / f"{name}.parquet").write_bytes(b"half a file")
    kept = (scratch / "00000.parquet").stat().st_mtime_ns
    run(drawn, toys, clips, tmp_path / "again", runtime)
    assert digests(tmp_path / "again") == digests(tmp_path / "whole")
    assert (scratch / "00000.parquet").stat().st_mtime_ns == kept


def test_finished_work_of_a_benchmark_outlives_that_of_the_next(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC removes the outputs of all of them before it runs them again."""
    other = draw_benchmark(tmp_path, 2).rename(tmp_path / "another")
    for benchmark in (drawn, other):
        run(benchmark, toys, clips, tmp_path / "out" / benchmark.name, runtime)
    before = digests(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("ovseg.evaluation.predictions.predict_images", None)
    for benchmark in (drawn, other):
        run(benchmark, toys, clips, tmp_path / "out" / benchmark.name, runtime)
    assert digests(tmp_path / "out") == before


def test_a_published_table_is_not_made_again_and_never_replaced_by_another_one(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], runtime: Runtime
) -> None:
    before = {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    assert run(drawn, toys, clips, table, runtime) == {"images": IMAGES}
    assert before == {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    for changes in (
        {"limit": 2},
        {"oracles": False},
        {"options": OPTIONS.model_copy(update={"seen_penalty": 0.2})},
        {"settings": SETTINGS["plain"]},
    ):
        with pytest.raises(OvsegError, match="belongs to another run"):
            run(drawn, toys, clips, table, runtime, **changes)


def test_a_limit_takes_the_first_images(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    assert run(drawn, toys, clips, tmp_path / "out", runtime, limit=2) == {"images": 2}
    assert rows_of(tmp_path / "out") == [row for row in rows_of(table) if row["item"] < 2]


def test_a_model_without_a_setting_only_classifies_ground_truth_masks(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    run(drawn, toys, clips, tmp_path / "out", runtime, settings=SETTINGS["plain"], limit=1)
    classifiers = {row["classifier"] for row in rows_of(tmp_path / "out") if row["model"] == "prompted"}
    assert classifiers == {"oracle_masks"}


def test_unreadable_items_are_dropped_by_reason_and_the_others_are_scored(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "bad")) / "set"
    (folder / LABELS / "0.png").unlink()
    Image.new("L", (10, 10)).save(folder / LABELS / "1.png")
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(folder / LABELS / "2.png")
    (folder.parent / "images" / "3.png").write_bytes(b"no image")
    counts = run(folder, toys, clips, tmp_path / "out", runtime)
    assert counts == {
        "images": 1,
        "dropped.missing": 1,
        "dropped.label_size": 1,
        "dropped.label_outside": 1,
        "dropped.not_an_image": 1,
    }
    assert rows_of(tmp_path / "out") == [row for row in rows_of(table) if row["item"] == 4]
    failures = tables.read_part(tmp_path / "out" / "failures" / "00000.parquet", "failures").to_pylist()
    assert [(row["image_id"], row["reason"]) for row in failures] == [
        (0, "missing"),
        (1, "label_size"),
        (2, "label_outside"),
        (3, "not_an_image"),
    ]
    assert "77" in failures[2]["detail"] and "names 0 to 5" in failures[2]["detail"]


def test_files_without_a_place_in_the_benchmark_are_counted_and_named(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a list of items: files that are no label maps, and images without labels; rotated images, too."""
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "odd")) / "set"
    (folder / ITEMS).unlink()
    images = read_benchmark(folder).images
    (folder / LABELS / "notes.txt").write_text("x")
    (folder / LABELS / "._0.png").write_bytes(b"x")
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("more", "another"):
        Image.fromarray(noise(0)).save(images / f"{name}.png")
    first = images / read_benchmark(folder).items[0][0]
    with Image.open(first) as image:
        image.load()
    image.save(first, exif=exif)
    counts = run(folder, toys, clips, tmp_path / "out", runtime, oracles=False)
    expected = {"images": IMAGES, "unread_files": 1, "images_without_labels": 2, "rotated": 1, "rotated_same_size": 1}
    assert counts == expected == tables.read_counts(tmp_path / "out")
    assert "notes.txt" in caplog.text and "more.png" in caplog.text and "orientation in" in caplog.text


def test_an_image_without_a_scored_pixel_is_counted(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "blank")) / "set"
    Image.fromarray(np.full((48, 64), IGNORE, np.uint8)).save(folder / LABELS / "0.png")
    assert run(folder, toys, clips, tmp_path / "out", runtime, limit=2) == {"images": 2}
    rows = rows_of(tmp_path / "out")
    assert all(not row["confusion_index"] and not row["pred_classes"] for row in rows if row["item"] == 0)
    assert benchmark_metrics(tmp_path / "out", read_benchmark(folder), 5)["plain"]["clip"]["pacc"] <= 1


def test_a_clip_with_another_text_tower_is_an_error(
    drawn: Path, toys: Toys, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    with pytest.raises(OvsegError, match=str(tiny_clip)):
        run(drawn, toys, {"plain": toys.clip, "prompted": tiny_clip}, tmp_path / "out", runtime)
    assert not (tmp_path / "out").exists()


def test_iou_and_ground_truth_area_of_each_class(table: Path, drawn: Path) -> None:
    benchmark = read_benchmark(drawn)
    maps = [benchmark.read(item)[1] for item in range(IMAGES)]
    areas = [sum(int((labels == k).sum()) for labels in maps) for k in range(len(NAMES))]
    assert gt_areas(table, benchmark).tolist() == areas
    metrics, by_classifier = benchmark_metrics(table, benchmark, 0), class_ious(table, benchmark)
    assert by_classifier.keys() == {(row["model"], row["classifier"]) for row in rows_of(table)}
    for (name, classifier), iou in by_classifier.items():
        assert np.nanmean(iou) == pytest.approx(metrics[name or "plain"][classifier]["miou"])


def test_a_benchmark_without_seen_classes_has_no_metrics_of_them(
    toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2, seen=None)
    run(folder, toys, clips, tmp_path / "out", runtime)
    for metrics in benchmark_metrics(tmp_path / "out", read_benchmark(folder), 0)["plain"].values():
        assert not {"miou_seen", "hiou", "mask_accuracy_annotated"} & metrics.keys()


@pytest.mark.parametrize("name", ["ade150", "ade847", "pc459", "cocostuff156"])
def test_the_names_of_published_benchmarks_can_be_evaluated(
    toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, name: str
) -> None:
    """Some of ADE20K's 847 classes have the same first name."""
    names = [entry.names for entry in read_classes(CLASS_TABLES / f"{name}.json")]
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(0)).save(tmp_path / "images" / "0.png")
    labels = np.arange(48 * 64).reshape(48, 64) % len(names)
    write_benchmark(
        tmp_path / "set", tmp_path / "images", names, 65535, [("0.png", "0.png", labels)], seen=None, source="drawn"
    )
    assert run(tmp_path / "set", toys, clips, tmp_path / "out", runtime, options=SegmentOptions(templates="none")) == {
        "images": 1
    }
    assert len(class_ious(tmp_path / "out", read_benchmark(tmp_path / "set"))["plain", "clip"]) == len(names)


CHOICES = {"plain": Choice(0.5, 0.7, "given"), "prompted": Choice(0.4, 0.6, "calibrate on val")}


def test_the_report_has_every_metric_and_the_choice_of_each_model(table: Path, drawn: Path, tmp_path: Path) -> None:
    benchmark = read_benchmark(drawn)
    write_benchmark_report(table, benchmark, tmp_path / "report", CHOICES)
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (report["images"], report["classes"], report["dropped"]) == (IMAGES, len(NAMES), {})
    metrics = benchmark_metrics(table, benchmark)
    for name, choice in CHOICES.items():
        model = report["models"][name]
        assert model["choice"] == vars(choice)
        for classifier in ("clip", "proposals", "ensemble", "oracle_labels", "oracle_masks"):
            for key in ("miou", "miou_gt", "hiou"):
                assert model[classifier][key] == pytest.approx(metrics[name][classifier][key], abs=1e-6)
        assert model["mask_accuracy"] == pytest.approx(metrics[name]["oracle_masks"]["mask_accuracy"], abs=1e-6)
        assert not [key for key in model["oracle_masks"] if key.startswith("mask_accuracy")]
    head, *lines = (tmp_path / "report" / "classes.tsv").read_text().splitlines()
    assert head.split("\t")[:3] == ["class", "seen", "gt_pixels"] and "plain/ensemble" in head.split("\t")
    assert [line.split("\t")[0] for line in lines] == list(NAMES)
    assert [line.split("\t")[1] for line in lines] == ["yes" if flag else "no" for flag in SEEN]


def test_a_report_without_a_readable_image_is_an_error(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "bad")) / "set"
    shutil.rmtree(folder.parent / "images")
    with pytest.raises(OvsegError, match=rf"{IMAGES} .*missing.*0\.png"):
        run(folder, toys, clips, tmp_path / "out", runtime)
