"""Mask accuracy: its formula, and that bad regions are counted and not fatal."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import encode_regions, with_regions
from ovseg.clip.save import model_config
from ovseg.clip.text_prompts import new_text_prompts
from ovseg.core import crops, masks
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import embed
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.evaluation.metrics import accuracies
from tests.conftest import THINGS, Coco

OPTIONS = {"fill": "mean", "antialias": True, "templates": "single", "batch_size": 5}


def test_shares_are_their_formula_written_out() -> None:
    label, guess = np.array([0, 0, 0, 1, 3, 3]), np.array([0, 0, 2, 2, 3, 0])
    scores = accuracies(label, guess, 5, np.array([True, False, True, False, True]))
    assert scores == {
        "mask_accuracy": 3 / 6,
        "mask_accuracy_mean": (2 / 3 + 0 + 1 / 2) / 3,  # class 2 and 4 have no region
        "mask_accuracy_annotated": 2 / 3,
        "mask_accuracy_mean_annotated": 2 / 3,
        "mask_accuracy_not_annotated": 1 / 3,
        "mask_accuracy_mean_not_annotated": (0 + 1 / 2) / 2,
    }
    assert accuracies(label, guess, 5).keys() == {"mask_accuracy", "mask_accuracy_mean"}
    assert accuracies(label, guess, 5, None, "union_accuracy")["union_accuracy"] == 3 / 6


def test_the_batch_size_changes_nothing(coco: Coco, tiny_clip: Path) -> None:
    clips = {"clip": load_adapted(tiny_clip)}
    scores = [
        measure_mask_accuracy(clips, coco.images, coco.instances, **{**OPTIONS, "batch_size": size})  # type: ignore[arg-type]
        for size in (1, 16, 64)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_it_is_what_naming_each_region_by_hand_gives(coco: Coco, tiny_clip: Path) -> None:
    clip = load_adapted(tiny_clip)
    scores = measure_mask_accuracy({"clip": clip}, coco.images, coco.instances, **OPTIONS)["clip"]  # type: ignore[arg-type]
    truth = json.loads(coco.instances.read_text())
    names = [c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])]
    ids = [c["id"] for c in sorted(truth["categories"], key=lambda c: c["id"])]
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    texts = embed(names, clip.encode_texts, "single", 8)
    right = 0
    for annotation in truth["annotations"]:
        pixels = np.asarray(Image.open(coco.images / files[annotation["image_id"]]).convert("RGB"))
        rle = masks.from_coco(annotation["segmentation"], *pixels.shape[:2])
        mask, box = masks.decode(rle, *pixels.shape[:2]), masks.box(rle, *pixels.shape[:2])
        crop, inside = crops.crop_region(
            pixels, mask, box, clip.size, crops.fill_color("mean", clip.mean.tolist()), True
        )
        guess = int((clip.encode_crops(crop[None], inside[None]) @ texts.T).argmax())
        right += ids[guess] == annotation["category_id"]
    assert scores["regions"] == len(truth["annotations"])
    assert scores["mask_accuracy"] == pytest.approx(right / len(truth["annotations"]))


def test_a_clip_for_region_tokens_names_the_regions_of_an_image_in_one_pass(coco: Coco, tiny_clip: Path) -> None:
    clip = with_regions(load_adapted(tiny_clip), RegionSettings("region_tokens", 0))
    scores = measure_mask_accuracy({"clip": clip}, coco.images, coco.instances, **OPTIONS)["clip"]  # type: ignore[arg-type]
    truth = json.loads(coco.instances.read_text())
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    texts = embed([c["name"] for c in categories], clip.encode_texts, "single", 8)
    right = 0
    for image in truth["images"]:
        annotations = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        pixels = np.asarray(Image.open(coco.images / image["file_name"]).convert("RGB"))
        size = pixels.shape[0], pixels.shape[1]
        regions = [masks.decode(masks.from_coco(a["segmentation"], *size), *size) for a in annotations]
        if regions:
            guesses = (encode_regions(clip, pixels, np.stack(regions)) @ texts.T).argmax(1).tolist()
            right += sum(
                categories[guess]["id"] == a["category_id"] for guess, a in zip(guesses, annotations, strict=True)
            )
    assert scores["regions"] == len(truth["annotations"])
    assert scores["mask_accuracy"] == pytest.approx(right / len(truth["annotations"]))


def test_several_clips_are_measured_in_one_pass_and_prompts_are_used(
    coco: Coco, tiny_clip: Path, tmp_path: Path
) -> None:
    plain = load_adapted(tiny_clip)
    prompts = new_prompts(plain.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(plain.model, model_config(f"local-dir:{tiny_clip}"), prompts, {}, tmp_path)
    clips = {"plain": plain, "prompted": load_adapted(tmp_path), "without": load_adapted(tmp_path, prompts=False)}
    scores = measure_mask_accuracy(clips, coco.images, coco.instances, **OPTIONS)  # type: ignore[arg-type]
    assert scores["plain"] == scores["without"]
    alone = measure_mask_accuracy({"prompted": clips["prompted"]}, coco.images, coco.instances, **OPTIONS)  # type: ignore[arg-type]
    assert scores["prompted"] == alone["prompted"]


def test_each_clip_names_regions_with_its_own_text_prompts(coco: Coco, tiny_clip: Path) -> None:
    plain = load_adapted(tiny_clip)
    other = replace(plain, text_prompts=30 * new_text_prompts(plain.model, 0, 5))
    together = measure_mask_accuracy({"plain": plain, "other": other}, coco.images, coco.instances, **OPTIONS)  # type: ignore[arg-type]
    for name, clip in (("plain", plain), ("other", other)):
        alone = measure_mask_accuracy({name: clip}, coco.images, coco.instances, **OPTIONS)  # type: ignore[arg-type]
        assert together[name] == alone[name]
    assert together["plain"] != together["other"]


def test_a_bad_image_and_a_bad_mask_are_left_out(
    tmp_path: Path, tiny_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:20] = True
    rle = {"size": [30, 40], "counts": masks.encode(mask).decode()}
    images = [
        {"id": i, "file_name": name, "width": 40, "height": 30}
        for i, name in enumerate(("good.png", "broken.png", "gone.png", "../out.png"))
    ] + [{"id": 9, "file_name": "good.png"}]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": rle} for i in (0, 1, 2, 3, 9)]
    annotations += [{"id": 7, "image_id": 0, "category_id": 1, "segmentation": {"size": [30, 40], "counts": "zzz"}}]
    truth = tmp_path / "truth.json"
    truth.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "star"}]})
    )
    caplog.set_level("INFO")
    scores = measure_mask_accuracy({"clip": load_adapted(tiny_clip)}, tmp_path, truth, **OPTIONS)["clip"]  # type: ignore[arg-type]
    figures = {f"{figure}{mean}": 1.0 for figure in ("mask_accuracy", "union_accuracy") for mean in ("", "_mean")}
    assert scores == {**figures, "regions": 1.0, "unions": 1.0}


def test_the_second_figure_has_one_region_for_each_image_and_class(tmp_path: Path, tiny_clip: Path) -> None:
    """By hand: the regions are the unions of the masks of a class; a class of one mask is that mask."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    parts = np.zeros((3, 40, 60), bool)
    parts[0, 2:9, 3:12], parts[1, 20:38, 30:50], parts[2, 5:30, 10:25] = True, True, True
    classes = [1, 1, 2]
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": k,
            "segmentation": {"size": [40, 60], "counts": masks.encode(m).decode()},
        }
        for i, (k, m) in enumerate(zip(classes, parts, strict=True))
    ]
    names = list(THINGS)[:4]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    clip = load_adapted(tiny_clip)
    scores = measure_mask_accuracy({"clip": clip}, tmp_path, tmp_path / "truth.json", **OPTIONS)["clip"]  # type: ignore[arg-type]
    texts, color = embed(names, clip.encode_texts, "single"), crops.fill_color("mean", clip.mean.tolist())

    def is_right(mask: masks.MaskArray, number: int) -> bool:
        crop, inside = crops.crop_region(
            pixels, mask, masks.box(masks.encode(mask), 40, 60), clip.size, color, antialias=True
        )
        return int((clip.encode_crops(crop[None], inside[None]) @ texts.T).argmax()) == number - 1

    of_masks = [is_right(mask, number) for mask, number in zip(parts, classes, strict=True)]
    of_unions = [is_right(parts[0] | parts[1], 1), is_right(parts[2], 2)]
    assert (scores["regions"], scores["unions"]) == (3, 2)
    assert scores["mask_accuracy"] == pytest.approx(np.mean(of_masks))
    assert scores["union_accuracy"] == pytest.approx(np.mean(of_unions))


def test_what_cannot_be_measured_is_an_error(tmp_path: Path, tiny_clip: Path, coco: Coco) -> None:
    clips = {"clip": load_adapted(tiny_clip)}
    truth = json.loads(coco.instances.read_text())
    (tmp_path / "a.json").write_text(json.dumps({**truth, "categories": []}))
    with pytest.raises(OvsegError, match=r"a\.json.*categories"):
        measure_mask_accuracy(clips, coco.images, tmp_path / "a.json", **OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(OvsegError, match=r"instances\.json"):
        measure_mask_accuracy(clips, tmp_path, coco.instances, **OPTIONS)  # type: ignore[arg-type]
    assert len(THINGS) == len(truth["categories"])


def test_images_that_cannot_be_decoded_are_an_error_that_counts_and_names_them(
    coco: Coco, tiny_clip: Path, tmp_path: Path
) -> None:
    """Their headers are good, so that only the decoding fails, after their masks were read."""
    images = tmp_path / "images"
    shutil.copytree(coco.images, images)
    for path in images.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    counts: Counter[str] = Counter()
    clips = {"clip": load_adapted(tiny_clip)}
    with pytest.raises(OvsegError, match=r"no images are left: .*image_\w+; for example image \d+: "):
        measure_mask_accuracy(clips, images, coco.instances, **OPTIONS, counts=counts)  # type: ignore[arg-type]
    assert counts["regions"] == 0


def test_most_images_missing_is_an_error_however_many_masks_the_others_have(
    coco: Coco, tiny_clip: Path, tmp_path: Path
) -> None:
    truth = json.loads(coco.instances.read_text())
    of_first = [a for a in truth["annotations"] if a["image_id"] == truth["images"][0]["id"]]
    rest = [{"id": 1000 + i, "file_name": f"gone{i}.png", "width": 9, "height": 9} for i in range(4)]
    truth.update(images=[truth["images"][0], *rest], annotations=of_first * 20)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    clips = {"clip": load_adapted(tiny_clip)}
    with pytest.raises(OvsegError, match=r"4 of 5 images \(80%\) were dropped for the reason image_missing"):
        measure_mask_accuracy(clips, coco.images, tmp_path / "truth.json", **OPTIONS)  # type: ignore[arg-type]
