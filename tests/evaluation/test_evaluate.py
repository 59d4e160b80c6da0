"""Running a benchmark: its table is what segmenting by hand gives, however it is interrupted; what is bad is dropped."""

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
from ovseg.clip.save import model_config
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.datasets.benchmark import ITEMS, LABELS, read_benchmark, write_benchmark
from ovseg.datasets.classes import HERE, read_classes
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import evaluate as module
from ovseg.evaluation.benchmark_report import write_benchmark_report
from ovseg.evaluation.calibrate import Choice
from ovseg.evaluation.confusion import confusion, totals
from ovseg.evaluation.evaluate import evaluate, three_classifiers
from ovseg.evaluation.mask_accuracy import accuracies
from ovseg.evaluation.metrics import metrics
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.evaluation.summary import per_class, summarise, true_pixels
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Row, Toys, digests
from tests.evaluation.conftest import IGNORE, IMAGES, NAMES, SEEN, draw_benchmark
from tests.toys import noise

WAYS: Mapping[str, Any] = {"plain": three_classifiers(0.5, 0.7), "prompted": three_classifiers(0.4, 0.6)}
OPTIONS: dict[str, Any] = {"templates": "single", "weight_seen": 0.3, "calibration": 0.1}


@pytest.fixture(scope="module")
def clips(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CLIP, and the same with mask prompts."""
    folder = tmp_path_factory.mktemp("prompted")
    clip = load_adapted(toys.clip)
    prompts = new_prompts(clip.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(clip.model, model_config(f"local-dir:{toys.clip}"), prompts, {}, folder)
    return {"plain": toys.clip, "prompted": folder}


def run(benchmark: Path, toys: Toys, clips: Mapping[str, Path], out: Path, runtime: Runtime, **changes: Any) -> Any:
    return evaluate(benchmark, toys.network, clips, out, runtime, **{"ways": WAYS, **OPTIONS, **changes})


@pytest.fixture(scope="module")
def table(drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole table of the five images; to be read, not written."""
    folder = tmp_path_factory.mktemp("table")
    counts = run(drawn, toys, clips, folder / "out", Runtime(workers=1, batch_size=3, work=folder / "work"))
    assert counts == {"images": IMAGES}
    return folder / "out"


def rows_of(folder: Path) -> list[Row]:
    return list(tables.rows(folder, "segmentations"))


def way(row: Row) -> tuple[str, float | None, str]:
    return row["model"], row["threshold"], row["classifier"]


def counted(rows: list[Row]) -> dict[tuple[str, float | None, str], dict[int, dict[int, int]]]:
    """way -> item -> cell -> pixels."""
    found: dict[tuple[str, float | None, str], dict[int, dict[int, int]]] = {}
    for row in rows:
        found.setdefault(way(row), {})[row["item"]] = dict(zip(row["cells"], row["pixels"], strict=True))
    return found


def test_each_image_has_a_row_of_every_way_and_what_needs_no_clip_is_done_once(table: Path) -> None:
    ways = [
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
    assert Counter((row["item"], way(row)) for row in rows_of(table)) == Counter(
        (item, one) for item in range(IMAGES) for one in ways
    )


def test_the_rows_are_what_segmenting_each_image_by_hand_gives(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path]
) -> None:
    benchmark, found = read_benchmark(drawn), counted(rows_of(table))
    seen = torch.tensor(SEEN)
    plain = Segmenter.load(toys.network, clips["plain"], mask_threshold=0.5, batch_size=100, **OPTIONS)
    prompted = replace(plain, clip=load_adapted(clips["prompted"]), mask_threshold=0.4)
    words = plain.vocabulary(benchmark.names)
    for item in range(IMAGES):
        pixels, labels = benchmark.read(item)
        queries = plain.network.predict(pixels)
        for name, model, weight in (("plain", plain, 0.7), ("prompted", prompted, 0.6)):
            regions = model.crop_regions(pixels, model.binarize(pixels, queries))
            named = model.classify(queries, regions, words)
            maps = {
                (name, model.mask_threshold, "clip"): model.semantic_map(pixels, queries, model.ensemble(named, 1.0)),
                ("", None, "proposals"): model.semantic_map(pixels, queries, model.ensemble(named, 0.0)),
                (name, model.mask_threshold, "ensemble"): model.semantic_map(
                    pixels, queries, model.ensemble(named, weight, seen), seen
                ),
            }
            if name == "prompted":
                scores = oracle_scores(regions.rles, labels, IGNORE, len(NAMES))
                maps["", 0.4, "oracle_labels"] = model.semantic_map(pixels, queries, scores)
            for one, (guess, _) in maps.items():
                cells, pixels_of = confusion(labels, guess, len(NAMES), IGNORE)
                assert found[one][item] == dict(zip(cells.tolist(), pixels_of.tolist(), strict=True)), one


def test_the_oracle_of_true_masks_is_naming_each_by_hand(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path]
) -> None:
    benchmark = read_benchmark(drawn)
    figures = summarise(table, benchmark, 0)
    for name, path in clips.items():
        model = Segmenter.load(toys.network, path, **OPTIONS)
        words = model.vocabulary(benchmark.names)
        true: list[int] = []
        guessed: list[int] = []
        counts = []
        for item in range(IMAGES):
            image, labels = benchmark.read(item)
            classes, rles = gt_masks(labels, IGNORE)
            guesses = model.by_clip(model.crop_regions(image, rles), words).argmax(1).tolist()
            true, guessed = true + classes, guessed + guesses
            counts.append(confusion(labels, relabel(labels, classes, guesses, 6), 6, IGNORE))
        whole = totals([cells for cells, _ in counts], [pixels for _, pixels in counts], 6)
        wanted = metrics(whole, np.array(SEEN))
        wanted |= accuracies(np.array(true), np.array(guessed), 6, np.array(SEEN))
        assert figures[name]["oracle_masks"] == pytest.approx(wanted)


def test_figures_are_the_metrics_of_the_rows_and_what_needs_no_clip_stands_with_every_model(
    table: Path, drawn: Path
) -> None:
    benchmark = read_benchmark(drawn)
    figures, found = summarise(table, benchmark, 50), counted(rows_of(table))
    assert figures.keys() == {"plain", "prompted"}
    for name, threshold in (("plain", 0.5), ("prompted", 0.4)):
        assert figures[name].keys() == {"clip", "proposals", "ensemble", "oracle_masks", "oracle_labels"}
        for classifier, one in (
            ("clip", (name, threshold, "clip")),
            ("proposals", ("", None, "proposals")),
            ("ensemble", (name, threshold, "ensemble")),
            ("oracle_labels", ("", 0.4, "oracle_labels")),
        ):
            items = found[one].values()
            whole = totals([np.array([*i]) for i in items], [np.array([*i.values()]) for i in items], len(NAMES))
            wanted = metrics(whole, np.array(SEEN))
            had = figures[name][classifier]
            assert {key: had[key] for key in wanted} == pytest.approx(wanted)
            assert had["miou_interval"][0] <= had["miou"] <= had["miou_interval"][1]
            assert had.keys() - wanted.keys() == {"miou_interval", "miou_gt_interval"}


def test_an_ensemble_without_clip_of_one_model_is_not_taken_for_another_s(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    """`calibrate` may choose the weight 0 for one model and 0.7 for another."""
    for i, weights in enumerate(({"plain": 0.7, "prompted": 0.0}, {"plain": 0.0, "prompted": 0.7})):
        ways = {name: three_classifiers(0.5, weight) for name, weight in weights.items()}
        plain = {"weight_seen": None, "calibration": 0.0}
        run(drawn, toys, clips, tmp_path / str(i), runtime, ways=ways, oracles=False, **plain)
        figures = summarise(tmp_path / str(i), read_benchmark(drawn), 0)
        for name, weight in weights.items():
            assert (figures[name]["ensemble"] == figures[name]["proposals"]) == (weight == 0), (name, weights)


def test_the_order_of_images_does_not_matter(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    turned = Path(shutil.copytree(drawn.parent, tmp_path / "turned")) / "set"
    head, *lines = (turned / ITEMS).read_text().splitlines()
    (turned / ITEMS).write_text("\n".join([head, *lines[::-1]]) + "\n")
    run(turned, toys, clips, tmp_path / "out", runtime)
    assert summarise(tmp_path / "out", read_benchmark(turned), 0) == summarise(table, read_benchmark(drawn), 0)


def test_units_and_batches_of_any_size_give_the_same_rows(
    table: Path,
    drawn: Path,
    toys: Toys,
    clips: dict[str, Path],
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_UNIT", 2)
    run(drawn, toys, clips, tmp_path / "out", Runtime(workers=2, batch_size=64, work=work))
    assert len(tables.parts(tmp_path / "out")) == 3
    assert rows_of(tmp_path / "out") == rows_of(table)
    benchmark = read_benchmark(drawn)
    assert summarise(tmp_path / "out", benchmark, 5) == summarise(table, benchmark, 5)


def test_a_run_that_was_cut_off_continues_to_the_same_bytes(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ITEMS_PER_UNIT", 2)
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


def test_what_was_published_is_not_done_again_and_never_replaced_by_something_else(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], runtime: Runtime
) -> None:
    before = {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    assert run(drawn, toys, clips, table, runtime) == {"images": IMAGES}
    assert before == {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    for changes in ({"limit": 2}, {"oracles": False}, {"calibration": 0.2}, {"ways": {"plain": WAYS["plain"]}}):
        with pytest.raises(OvsegError, match="belongs to another run"):
            run(drawn, toys, clips, table, runtime, **changes)


def test_a_limit_takes_the_first_images(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    assert run(drawn, toys, clips, tmp_path / "out", runtime, limit=2) == {"images": 2}
    assert rows_of(tmp_path / "out") == [row for row in rows_of(table) if row["item"] < 2]


def test_a_model_with_no_way_is_shown_true_masks_alone(
    table: Path, drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    run(drawn, toys, clips, tmp_path / "out", runtime, ways={"plain": WAYS["plain"]}, limit=1)
    found = {row["classifier"] for row in rows_of(tmp_path / "out") if row["model"] == "prompted"}
    assert found == {"oracle_masks"}


def test_what_is_bad_is_dropped_by_reason_and_the_rest_is_scored(
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


def test_an_image_of_which_nothing_is_scored_is_no_trouble(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "blank")) / "set"
    Image.fromarray(np.full((48, 64), IGNORE, np.uint8)).save(folder / LABELS / "0.png")
    assert run(folder, toys, clips, tmp_path / "out", runtime, limit=2) == {"images": 2}
    rows = rows_of(tmp_path / "out")
    assert all(not row["cells"] and not row["guesses"] for row in rows if row["item"] == 0)
    assert summarise(tmp_path / "out", read_benchmark(folder), 5)["plain"]["clip"]["pacc"] <= 1


def test_a_clip_of_another_text_tower_is_refused(
    drawn: Path, toys: Toys, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    with pytest.raises(OvsegError, match="another text tower"):
        run(drawn, toys, {"plain": toys.clip, "prompted": tiny_clip}, tmp_path / "out", runtime)
    assert not (tmp_path / "out").exists()


def test_iou_and_true_pixels_of_each_class(table: Path, drawn: Path) -> None:
    benchmark = read_benchmark(drawn)
    maps = [benchmark.read(item)[1] for item in range(IMAGES)]
    wanted = [sum(int((labels == k).sum()) for labels in maps) for k in range(len(NAMES))]
    assert true_pixels(table, benchmark).tolist() == wanted
    figures, found = summarise(table, benchmark, 0), per_class(table, benchmark)
    assert found.keys() == {(one[0], one[2]) for one in counted(rows_of(table))}
    for (name, classifier), iou in found.items():
        assert np.nanmean(iou) == pytest.approx(figures[name or "plain"][classifier]["miou"])


def test_a_benchmark_without_a_split_into_seen_and_unseen_has_no_such_figures(
    toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2, seen=None)
    run(folder, toys, clips, tmp_path / "out", runtime)
    for figures in summarise(tmp_path / "out", read_benchmark(folder), 0)["plain"].values():
        assert not {"miou_seen", "hiou", "mask_accuracy_annotated"} & figures.keys()


@pytest.mark.parametrize("name", ["ade150", "ade847", "pc459", "cocostuff156"])
def test_the_official_names_can_be_evaluated(
    toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime, name: str
) -> None:
    """Some of ADE20K's 847 classes have the same first name."""
    names = [one.names for one in read_classes(HERE / f"{name}.json")]
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(0)).save(tmp_path / "images" / "0.png")
    labels = np.arange(48 * 64).reshape(48, 64) % len(names)
    write_benchmark(
        tmp_path / "set", tmp_path / "images", names, 65535, [("0.png", "0.png", labels)], seen=None, source="drawn"
    )
    assert run(tmp_path / "set", toys, clips, tmp_path / "out", runtime, templates="none") == {"images": 1}
    assert len(per_class(tmp_path / "out", read_benchmark(tmp_path / "set"))["plain", "clip"]) == len(names)


CHOICES = {"plain": Choice(0.5, 0.7, "given"), "prompted": Choice(0.4, 0.6, "tune on val")}


def test_the_report_has_every_figure_and_says_how_it_was_made(table: Path, drawn: Path, tmp_path: Path) -> None:
    benchmark = read_benchmark(drawn)
    write_benchmark_report(table, benchmark, tmp_path / "report", CHOICES)
    said = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (said["images"], said["classes"], said["dropped"]) == (IMAGES, len(NAMES), {})
    figures = summarise(table, benchmark)
    for name, choice in CHOICES.items():
        model = said["models"][name]
        assert model["choice"] == vars(choice)
        for classifier in ("clip", "proposals", "ensemble", "oracle_labels", "oracle_masks"):
            for key in ("miou", "miou_gt", "hiou"):
                assert model[classifier][key] == pytest.approx(figures[name][classifier][key], abs=1e-6)
        assert model["mask_accuracy"] == pytest.approx(figures[name]["oracle_masks"]["mask_accuracy"], abs=1e-6)
        assert not [key for key in model["oracle_masks"] if key.startswith("mask_accuracy")]
    head, *lines = (tmp_path / "report" / "classes.tsv").read_text().splitlines()
    assert head.split("\t")[:3] == ["class", "seen", "true_pixels"] and "plain/ensemble" in head.split("\t")
    assert [line.split("\t")[0] for line in lines] == list(NAMES)
    assert [line.split("\t")[1] for line in lines] == ["yes" if flag else "no" for flag in SEEN]


def test_a_report_on_no_image_is_refused(
    drawn: Path, toys: Toys, clips: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    folder = Path(shutil.copytree(drawn.parent, tmp_path / "bad")) / "set"
    shutil.rmtree(folder.parent / "images")
    assert run(folder, toys, clips, tmp_path / "out", runtime) == {"images": 0, "dropped.missing": IMAGES}
    with pytest.raises(OvsegError, match=r"no image of .* can be read"):
        write_benchmark_report(tmp_path / "out", read_benchmark(folder), tmp_path / "report", CHOICES)
