"""The two-stage segmenter as a whole: its parts written out, odd images, and what may not change its result."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import new_prompts
from ovseg.clip.save import model_config
from ovseg.core import crops, masks
from ovseg.core.errors import OvsegError
from ovseg.segmentation.class_probs import by_clip, by_network
from ovseg.segmentation.compose import compose
from ovseg.segmentation.segmenter import Classifier, Segmentation, Segmenter
from tests.conftest import Toys
from tests.toys import QUERIES, WORDS, noise

NAMES = WORDS[:6]
ALL: tuple[Classifier, ...] = ("clip", "proposals", "ensemble")


@pytest.fixture(scope="module")
def prompted(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same CLIP with mask prompts that change much."""
    folder = tmp_path_factory.mktemp("prompted")
    clip = load_adapted(toys.clip)
    prompts = new_prompts(clip.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(clip.model, model_config(f"local-dir:{toys.clip}"), prompts, {}, folder)
    return folder


def same(one: Segmentation, other: Segmentation, tolerance: float = 1e-4) -> None:
    assert np.array_equal(one.labels, other.labels) and np.array_equal(one.areas, other.areas)
    np.testing.assert_allclose(one.proposals, other.proposals, atol=tolerance)
    np.testing.assert_allclose(one.score, other.score, atol=QUERIES * tolerance)


@pytest.mark.parametrize("classifier", ALL)
def test_a_segmentation_is_its_steps_written_out(segmenter: Segmenter, clip: Clip, classifier: Classifier) -> None:
    pixels = noise(6)
    found = segmenter.segment(pixels, NAMES, classifier)
    queries, words = segmenter.network.predict(pixels), segmenter.vocabulary(NAMES)
    p = by_network((queries.class_embeddings @ words.texts.T).double(), queries.class_embeddings @ queries.no_object)
    rles = segmenter.binarize(pixels, queries)
    assert all(rles)
    features = []
    for rle in rles:
        assert rle is not None
        mask, box = masks.decode(rle, 48, 64), masks.box(rle, 48, 64)
        colour = crops.fill_colour("mean", clip.mean.tolist())
        crop, inside = crops.crop_region(pixels, mask, box, clip.size, colour, True)
        features.append(clip.encode_crops(crop[None], inside[None])[0])
    q = by_clip((torch.stack(features) @ words.texts.T).double())
    scores = {"clip": q, "proposals": p, "ensemble": p**0.3 * q**0.7}[classifier]
    labels, values = compose(scores, queries.mask_logits, queries.extent, 48, 64)
    np.testing.assert_allclose(found.proposals, scores, atol=2e-3)
    np.testing.assert_allclose(found.score, values, atol=1e-2)
    assert (found.labels == labels).mean() > 0.99 and found.names == NAMES
    assert found.areas.tolist() == [masks.area(rle, 48, 64) for rle in rles if rle]


def test_the_toys_tell_things_apart(segmenter: Segmenter) -> None:
    """Otherwise the tests of this file would prove little: some images have several classes, by all three classifiers."""
    found = [[segmenter.segment(noise(seed), NAMES, classifier).labels for classifier in ALL] for seed in range(10)]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert any(not np.array_equal(some[i], some[j]) for some in found)
    assert all(any(len(np.unique(some[i])) > 1 for some in found) for i in range(len(ALL)))


@pytest.mark.parametrize("classifier", ALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (1, 10_000), (3, 10_000)])
def test_images_a_pixel_high_and_ten_thousand_wide_are_segmented(
    segmenter: Segmenter, size: tuple[int, int], classifier: Classifier
) -> None:
    found = segmenter.segment(noise(0, *size), NAMES, classifier)
    assert found.labels.shape == found.score.shape == size
    assert np.isfinite(found.score).all() and found.labels.max() < len(NAMES)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_nothing(segmenter: Segmenter, batch_size: int) -> None:
    for seed in (6, 9):
        same(
            segmenter.segment(noise(seed), NAMES), replace(segmenter, batch_size=batch_size).segment(noise(seed), NAMES)
        )


def test_the_number_of_threads_changes_nothing(segmenter: Segmenter) -> None:
    with ThreadPoolExecutor(1) as pool:
        same(segmenter.segment(noise(0), NAMES), replace(segmenter, pool=pool).segment(noise(0), NAMES), 0)


def test_the_order_of_names_changes_their_numbers_alone(segmenter: Segmenter) -> None:
    found, turned = segmenter.segment(noise(0), NAMES), segmenter.segment(noise(0), NAMES[::-1])
    assert np.array_equal(found.labels, len(NAMES) - 1 - turned.labels)


@pytest.mark.parametrize("classifier", ALL)
def test_where_no_proposal_is_valid_the_network_s_word_stands(segmenter: Segmenter, classifier: Classifier) -> None:
    strict = replace(segmenter, mask_threshold=0.9999)
    found = strict.segment(noise(0), NAMES, classifier)
    assert not found.areas.any()
    alone = segmenter.segment(noise(0), NAMES, "proposals")
    assert np.array_equal(found.labels, alone.labels) and np.array_equal(found.proposals, alone.proposals)


def test_some_valid_proposals_among_others_are_the_only_ones_that_clip_names(segmenter: Segmenter) -> None:
    pixels = noise(0)
    queries = segmenter.network.predict(pixels)
    highest = sorted(queries.mask_logits.flatten(1).amax(1).sigmoid().tolist())
    strict = replace(segmenter, mask_threshold=(highest[1] + highest[2]) / 2)
    found, alone = strict.segment(pixels, NAMES, "clip"), strict.segment(pixels, NAMES, "proposals")
    valid = found.areas > 0
    assert 1 <= valid.sum() < QUERIES
    assert np.array_equal(found.proposals[~valid], alone.proposals[~valid])
    np.testing.assert_allclose(found.proposals[valid].sum(1), 1)


def test_others_is_one_more_class_unless_it_is_there(segmenter: Segmenter) -> None:
    assert segmenter.segment(noise(0), ["star"], others=True).names == ("star", "others")
    assert segmenter.segment(noise(0), ["star", "others"], others=True).names == ("star", "others")
    assert segmenter.segment(noise(0), ["star"]).names == ("star",)


def test_names_given_once_and_names_embedded_before_are_the_same(segmenter: Segmenter) -> None:
    names: list[str | list[str]] = ["star", ["boat", "kite"], "sky"]
    words = segmenter.vocabulary(names)
    same(segmenter.segment(noise(0), names), segmenter.segment_with(noise(0), words), 0)
    assert words.names == ("star", "boat", "sky") and words.owner.tolist() == [0, 1, 1, 2]


def test_a_clip_without_mask_prompts_is_shown_crops_alone_and_one_with_them_masks_too(
    toys: Toys, segmenter: Segmenter, prompted: Path
) -> None:
    assert segmenter.clip.prompts is None
    other = Segmenter.load(toys.network, prompted, templates="single", mask_threshold=0.5)
    one, two = (some.segment(noise(0), NAMES, "clip") for some in (segmenter, other))
    assert np.abs(one.proposals - two.proposals).max() > 0.01
    assert np.array_equal(one.areas, two.areas)
    one, two = (some.segment(noise(0), NAMES, "proposals") for some in (segmenter, other))
    assert np.array_equal(one.proposals, two.proposals)


def test_in_an_unmasked_crop_nothing_is_blank_so_prompts_say_nothing(
    toys: Toys, segmenter: Segmenter, prompted: Path
) -> None:
    plain = replace(segmenter, view="crop")
    other = replace(plain, clip=load_adapted(prompted))
    same(plain.segment(noise(0), NAMES, "clip"), other.segment(noise(0), NAMES, "clip"))


def regions_of(segmenter: Segmenter, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What CLIP sees of a cross in an image: crop `[3, S, S]` and mask `[S, S]`."""
    found = replace(segmenter, **changes).crop_regions(noise(0), [None, masks.encode(cross())])
    assert found.valid.tolist() == [False, True] and found.rles == (None, masks.encode(cross()))
    return found.crop[0], found.mask[0]


def cross() -> masks.MaskArray:
    """In the columns 10 to 40 and the rows 5 to 25."""
    mask = np.zeros((48, 64), bool)
    mask[12:18, 10:41] = mask[5:26, 20:30] = True
    return mask


BOX = (10, 5, 31, 21)


def fitted(pixels: Any, mask: Any, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return crops.resize(np.ascontiguousarray(pixels), np.ascontiguousarray(mask), size, True)


def test_the_view_crop_and_mask_is_the_box_with_its_background_blank(segmenter: Segmenter, clip: Clip) -> None:
    colour = crops.fill_colour("mean", clip.mean.tolist())
    wanted = crops.crop_region(noise(0), cross(), BOX, clip.size, colour, True)
    assert all(torch.equal(a, b) for a, b in zip(regions_of(segmenter), wanted, strict=True))


def test_the_view_crop_is_the_box_as_it_is(segmenter: Segmenter, clip: Clip) -> None:
    part = noise(0)[5:26, 10:41]
    crop, mask = regions_of(segmenter, view="crop")
    assert torch.equal(crop, fitted(part, part[..., 0] >= 0, clip.size)[0]) and mask.all()


def test_the_view_mask_is_the_whole_image_with_the_rest_blank(segmenter: Segmenter, clip: Clip) -> None:
    colour = crops.fill_colour("mean", clip.mean.tolist())
    wanted = fitted(crops.fill_background(noise(0), cross(), colour), cross(), clip.size)
    assert all(torch.equal(a, b) for a, b in zip(regions_of(segmenter, view="mask"), wanted, strict=True))


def test_the_fill_of_the_recipe_is_used_in_every_masked_view(segmenter: Segmenter) -> None:
    for view in ("crop-and-mask", "mask"):
        mean, zero, keep = (regions_of(segmenter, view=view, fill=fill)[0] for fill in ("mean", "zero", "keep"))
        assert not torch.equal(mean, zero) and not torch.equal(mean, keep)
    kept, mask = regions_of(segmenter, fill="keep")
    assert torch.equal(kept, regions_of(segmenter, view="crop")[0]) and not mask.all()


def test_of_no_proposal_nothing_is_cut_and_clip_says_nothing(segmenter: Segmenter) -> None:
    words = segmenter.vocabulary(NAMES)
    for rles in ([], [None, None]):
        found = segmenter.crop_regions(noise(0), rles)
        assert found.crop.shape == (0, 3, segmenter.clip.size, segmenter.clip.size)
        q = segmenter.by_clip(found, words)
        assert q.shape == (len(rles), len(NAMES)) and not q.any()


def test_seen_classes_get_their_own_weight_mean_and_discount(segmenter: Segmenter) -> None:
    pixels, seen = noise(0), torch.tensor([True, True, False, True, False, False])
    queries = segmenter.network.predict(pixels)
    regions = segmenter.crop_regions(pixels, segmenter.binarize(pixels, queries))
    named = segmenter.classify(queries, regions, segmenter.vocabulary(NAMES))
    tuned = replace(segmenter, weight_seen=0.2, average_seen=True, calibration=0.3)
    scores = tuned.ensemble(named, 0.7, seen)
    mean = named.q[:, seen].mean(1, keepdim=True)
    torch.testing.assert_close(scores[:, seen], named.p[:, seen] ** 0.8 * mean**0.2)
    torch.testing.assert_close(scores[:, ~seen], named.p[:, ~seen] ** 0.3 * named.q[:, ~seen] ** 0.7)
    assert torch.equal(tuned.ensemble(named, 0.7), segmenter.ensemble(named, 0.7))
    for known, less in ((seen, 0.3 * seen), (None, None)):
        found = tuned.semantic_map(pixels, queries, scores, known)
        wanted = compose(scores, queries.mask_logits, queries.extent, 48, 64, less)
        assert np.array_equal(found[0], wanted[0])
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)


def test_another_text_tower_is_refused_with_both_folders(toys: Toys, tiny_clip: Path) -> None:
    with pytest.raises(
        OvsegError, match=f"{toys.network} was trained with another text tower than that of {tiny_clip}"
    ):
        Segmenter.load(toys.network, tiny_clip)


def test_what_is_no_network_and_what_is_no_clip_is_refused(toys: Toys, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"is not a proposal network: proposal_network\.json is missing"):
        Segmenter.load(toys.clip, toys.clip)
    with pytest.raises(OvsegError, match="is not a CLIP"):
        Segmenter.load(toys.network, toys.network)
    with pytest.raises(OvsegError, match=f"{tmp_path / 'gone'} is not a proposal network"):
        Segmenter.load(tmp_path / "gone", toys.clip)
    folder = Path(shutil.copytree(toys.network, tmp_path / "network"))
    state = load_file(folder / "model.safetensors")
    del state["class_predictor.no_object"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(OvsegError, match=r"cannot be loaded.*no_object"):
        Segmenter.load(folder, toys.clip)
