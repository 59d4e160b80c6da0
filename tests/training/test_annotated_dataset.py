"""Annotated images for training: the same scenes however they are read, one mask for each class, moved as the image is."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ovseg.core import masks
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.training.annotated_dataset import AnnotatedSegmentationDataset, Scene, read_scenes
from tests.toys import noise

W, H, CROP = 64, 48, 32
NUMBERS = {"star": 0, "key": 1, "boat": 2}
KINDS = {"star": 5, "key": 3, "boat": 9, "unknown": 4}


def block(x: int, y: int, w: int, h: int) -> masks.MaskArray:
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def draw(folder: Path, image_id: int, pixels: Any) -> ImageRecord:
    name = f"{image_id}.png"
    Image.fromarray(pixels).save(folder / name)
    return ImageRecord(folder, image_id, name, 0, (folder / name).stat().st_size, W, H)


def annotate(folder: Path, labelled: dict[int, list[tuple[str, masks.MaskArray]]]) -> Path:
    annotations = [
        {
            "id": i,
            "image_id": image_id,
            "category_id": KINDS[name],
            "iscrowd": 0,
            "segmentation": {"size": [H, W], "counts": masks.encode(mask).decode()},
        }
        for i, (image_id, name, mask) in enumerate((k, *pair) for k, pairs in labelled.items() for pair in pairs)
    ]
    content = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in labelled],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in KINDS.items()],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def make(folder: Path, number: int = 5, **changes: Any) -> AnnotatedSegmentationDataset:
    """`number` images of noise with two stars, a key and something unknown; the last has something unknown alone."""
    folder.mkdir(exist_ok=True)
    images = [draw(folder, i, noise(i)) for i in range(number)]
    annotated = [
        ("star", block(2, 2, 30, 30)),
        ("star", block(34, 6, 20, 20)),
        ("key", block(10, 30, 40, 16)),
        ("unknown", block(0, 0, 64, 48)),
    ]
    truth = annotate(folder, {i: annotated[3:] if i == number - 1 else annotated for i in range(number)})
    options: dict[str, Any] = {"crop_size": CROP, "scales": (1.0, 2.0), "color_jitter": True, "seed": 0, **changes}
    return AnnotatedSegmentationDataset(images, truth, folder / "scratch", NUMBERS, **options)


def same(first: Scene, second: Scene) -> bool:
    return all(torch.equal(first[key], second[key]) for key in ("image", "masks", "classes"))


def equal(first: list[list[Scene]], second: list[list[Scene]]) -> bool:
    return [len(batch) for batch in first] == [len(batch) for batch in second] and all(
        same(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def read(
    data: AnnotatedSegmentationDataset, number: int, begin: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1
) -> list[list[Scene]]:
    return list(islice(read_scenes(data, 4, rank, ranks, begin, workers), number))


def test_a_scene_has_the_shapes_and_types_that_it_promises(tmp_path: Path) -> None:
    for scene in (scene for batch in read(make(tmp_path), 4) for scene in batch):
        assert scene["image"].shape == (3, CROP, CROP) and scene["image"].dtype == torch.uint8
        number = len(scene["classes"])
        assert scene["masks"].shape == (number, CROP, CROP) and scene["masks"].dtype == torch.bool
        assert scene["classes"].dtype == torch.int64 and len(set(scene["classes"].tolist())) == number
        assert scene["masks"].flatten(1).any(1).all() and set(scene["classes"].tolist()) <= {0, 1}
        assert type(scene["image"]) is Tensor and type(scene["masks"]) is Tensor


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loading_processes_changes_nothing(tmp_path: Path, workers: int) -> None:
    assert equal(read(make(tmp_path / "a"), 6), read(make(tmp_path / "b"), 6, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_may_begin_anywhere(tmp_path: Path, workers: int) -> None:
    """A training that continues at step 3 sees what an undisturbed one sees from there."""
    assert equal(read(make(tmp_path / "a"), 6)[3:], read(make(tmp_path / "b"), 3, begin=3, workers=workers))


def test_ranks_share_each_batch(tmp_path: Path) -> None:
    whole = read(make(tmp_path / "a"), 3)
    first, second = (read(make(tmp_path / str(rank)), 3, rank=rank, ranks=2) for rank in (0, 1))
    assert equal(whole, [a + b for a, b in zip(first, second, strict=True)])


def test_neither_what_was_drawn_before_nor_the_order_of_reading_matters(tmp_path: Path) -> None:
    data = make(tmp_path)
    forwards = [data[place] for place in range(6)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    backwards = [data[place] for place in range(5, -1, -1)]
    assert all(same(a, b) for a, b in zip(forwards, backwards[::-1], strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_has_each_image_once_in_an_order_of_its_own_and_other_crops(tmp_path: Path) -> None:
    folder = tmp_path
    images = [draw(folder, i, np.full((H, W, 3), 10 * i, np.uint8)) for i in range(8)]
    truth = annotate(folder, {i: [("star", block(2, 2, 30, 30))] for i in range(8)})
    data = AnnotatedSegmentationDataset(
        images, truth, folder / "s", NUMBERS, crop_size=CROP, scales=(1.0, 2.0), color_jitter=False, seed=0
    )
    epochs = [[int(data[8 * epoch + i]["image"].max()) // 10 for i in range(8)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_seed_gives_other_scenes(tmp_path: Path) -> None:
    assert not equal(read(make(tmp_path / "a"), 2), read(make(tmp_path / "b", seed=1), 2))


def test_all_annotations_of_a_class_are_one_mask_and_unknown_classes_none(tmp_path: Path) -> None:
    """At the size of the image, without a crop: what is left is the mask itself, or its mirror image."""
    images = [draw(tmp_path, 0, noise(0)[:, :48])]
    small = ImageRecord(tmp_path, 0, "0.png", 0, images[0].size, 48, 48)
    stars, key = (np.zeros((48, 48), bool) for _ in range(2))
    stars[2:12, 2:12] = stars[2:12, 30:36] = key[20:30, 5:40] = True
    parts = [stars & (np.arange(48) < 20), stars & (np.arange(48) >= 20)]
    content = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "annotations": [
            {
                "id": i,
                "image_id": 0,
                "category_id": KINDS[name],
                "iscrowd": 0,
                "segmentation": {"size": [48, 48], "counts": masks.encode(mask).decode()},
            }
            for i, (name, mask) in enumerate([("star", parts[0]), ("key", key), ("star", parts[1]), ("unknown", ~key)])
        ],
        "categories": [{"id": number, "name": name} for name, number in KINDS.items()],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    data = AnnotatedSegmentationDataset(
        [small],
        tmp_path / "truth.json",
        tmp_path / "s",
        NUMBERS,
        crop_size=48,
        scales=(1.0, 1.0),
        color_jitter=False,
        seed=0,
    )
    turned = set()
    for place in range(8):
        scene = data[place]
        assert scene["classes"].tolist() == [0, 1]
        mirrored = np.array_equal(scene["image"].numpy(), small.pixels[:, ::-1].transpose(2, 0, 1))
        assert mirrored or np.array_equal(scene["image"].numpy(), small.pixels.transpose(2, 0, 1))
        step = -1 if mirrored else 1
        assert np.array_equal(scene["masks"].numpy(), np.stack([stars[:, ::step], key[:, ::step]]))
        turned.add(mirrored)
    assert turned == {True, False}


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 2.0)])
def test_masks_move_with_the_image(tmp_path: Path, scales: tuple[float, float]) -> None:
    """A white star on black: where the mask is, the scene is white, also after scaling, cropping and mirroring."""
    star = block(8, 6, 34, 30)
    pixels = np.where(star[..., None], 255, 0).repeat(3, axis=2).astype(np.uint8)
    truth = annotate(tmp_path, {0: [("star", star)]})
    data = AnnotatedSegmentationDataset(
        [draw(tmp_path, 0, pixels)],
        truth,
        tmp_path / "s",
        NUMBERS,
        crop_size=CROP,
        scales=scales,
        color_jitter=False,
        seed=0,
    )
    sizes = set()
    for place in range(10):
        scene = data[place]
        white = scene["image"][0] > 200
        mask = scene["masks"][0] if len(scene["masks"]) else torch.zeros(CROP, CROP, dtype=torch.bool)
        assert (mask != white).float().mean() < 0.1
        sizes.add(int(mask.sum()))
    assert len(sizes) > 3


def test_what_is_smaller_than_the_crop_is_padded_with_grey_that_belongs_to_no_class(tmp_path: Path) -> None:
    truth = annotate(tmp_path, {0: [("star", block(0, 0, W, H))]})
    image = draw(tmp_path, 0, np.full((H, W, 3), 9, np.uint8))
    data = AnnotatedSegmentationDataset(
        [image], truth, tmp_path / "s", NUMBERS, crop_size=CROP, scales=(0.5, 0.5), color_jitter=False, seed=0
    )
    for place in range(5):
        scene = data[place]
        grey = (scene["image"] == 128).all(0)
        assert 0 < grey.sum() < CROP * CROP
        assert torch.equal(scene["masks"][0], ~grey)


def test_a_class_that_the_crop_leaves_out_is_left_out(tmp_path: Path) -> None:
    truth = annotate(tmp_path, {0: [("star", block(0, 0, 6, 6)), ("key", block(56, 40, 8, 8))]})
    data = AnnotatedSegmentationDataset(
        [draw(tmp_path, 0, noise(0))],
        truth,
        tmp_path / "s",
        NUMBERS,
        crop_size=CROP,
        scales=(2.0, 2.0),
        color_jitter=False,
        seed=0,
    )
    visible = {tuple(data[place]["classes"].tolist()) for place in range(30)}
    assert (0, 1) not in visible and {(), (0,), (1,)} <= visible


def test_an_image_without_a_known_class_is_a_scene_without_masks(tmp_path: Path) -> None:
    data = make(tmp_path, 1)
    scene = data[0]
    assert scene["masks"].shape == (0, CROP, CROP) and not len(scene["classes"]) and scene["image"].any()


def test_an_image_that_is_gone_teaches_nothing_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make(tmp_path, 2)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"x" * data.images[1].size)
    for place in range(2):
        scene = data[place]
        assert not len(scene["classes"]) and scene["image"].shape == (3, CROP, CROP)
    assert "0.png is left out: missing" in caplog.text and "1.png is left out: not_an_image" in caplog.text


def test_no_decoded_image_is_kept_in_memory(tmp_path: Path) -> None:
    """A data set of images is larger than memory; an epoch reads all of it."""
    data = make(tmp_path, 2)
    assert all(data[place]["image"].any() for place in range(2))
    assert not any("pixels" in vars(record) for record in data.images)


def panoptic(folder: Path, number: int) -> AnnotatedSegmentationDataset:
    """`number` images with a star each, as a panoptic JSON and its PNGs."""
    (folder / "truth").mkdir()
    for i in range(number):
        Image.fromarray(block(0, 0, 20, 20)[..., None].repeat(3, 2).astype(np.uint8)).save(
            folder / "truth" / f"{i}.png"
        )
    segments = [{"id": 1 + 256 + 65536, "category_id": KINDS["star"], "iscrowd": 0}]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(number)],
        "annotations": [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments} for i in range(number)],
        "categories": [{"id": number, "name": name} for name, number in KINDS.items()],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    images = [draw(folder, i, noise(i)) for i in range(number)]
    options: dict[str, Any] = {"crop_size": CROP, "scales": (1.0, 1.0), "color_jitter": False, "seed": 0}
    return AnnotatedSegmentationDataset(images, folder / "truth.json", folder / "scratch", NUMBERS, **options)


def test_an_image_whose_masks_cannot_be_read_teaches_nothing_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one without any object it would teach that its objects are none."""
    data = panoptic(tmp_path, 2)
    (tmp_path / "truth" / "0.png").unlink()
    (tmp_path / "truth" / "1.png").write_bytes(b"x")
    assert not any(data[place]["image"].any() for place in range(2))
    assert "0.png is left out: missing_mask_file" in caplog.text and "1.png is left out: not_an_image" in caplog.text


def test_images_whose_masks_cannot_be_read_are_counted_before_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = panoptic(tmp_path, 5)
    data.check_sample(0.0)
    assert not caplog.text
    for number in range(2):
        (tmp_path / "truth" / f"{number}.png").unlink()
    data.check_sample(0.5)
    assert "2 missing_mask_file in 5 images; for example image 0" in caplog.text
    with pytest.raises(
        OvsegError, match=r"2 of 5 images \(40%\).*image_without_usable_mask.*image 0: missing_mask_file"
    ):
        data.check_sample(0.3)


def test_loader_processes_do_not_share_the_connection_of_the_check_before(tmp_path: Path) -> None:
    """SQLite forbids to use a connection in a forked process."""
    data = make(tmp_path)
    data.check_sample(1.0)
    assert "_source" not in vars(data)


def test_pixel_maps_with_a_class_table_are_annotations_too(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    labels = np.full((H, W), 255, np.uint8)
    labels[:30], labels[30:40], labels[40:] = 7, 3, 8
    Image.fromarray(labels).save(folder / "0.png")
    rows = [{"id": 7, "names": ["star"]}, {"id": 3, "names": ["key"]}, {"id": 8, "names": ["sky"], "seen": False}]
    (folder / "classes.json").write_text(json.dumps({"classes": rows}))
    data = AnnotatedSegmentationDataset(
        [draw(tmp_path, 0, noise(0))],
        folder,
        tmp_path / "s",
        NUMBERS,
        crop_size=CROP,
        scales=(0.5, 0.5),
        color_jitter=False,
        seed=0,
    )
    scene = data[0]
    assert sorted(scene["classes"].tolist()) == [0, 1]
    assert not (scene["masks"][0] & scene["masks"][1]).any()


def test_without_an_image_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    make(tmp_path, 1)
    data = AnnotatedSegmentationDataset(
        [],
        tmp_path / "truth.json",
        tmp_path / "s",
        NUMBERS,
        crop_size=CROP,
        scales=(1.0, 1.0),
        color_jitter=False,
        seed=0,
    )
    with pytest.raises(OvsegError, match=r"truth\.json"):
        read_scenes(data, 4, 0, 1, 0, 0)
