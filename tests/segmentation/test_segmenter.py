"""The two-stage segmenter as a whole: its steps written out, unusual images, and what must not change its result."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import encode_in_one_pass, encode_regions, masks_on_grid, whole_image, with_regions
from ovseg.clip.save import model_config
from ovseg.core import crops, masks
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, Fill, SegmentOptions, View
from ovseg.segmentation.class_probs import clip_class_probs, network_class_probs
from ovseg.segmentation.segmenter import Classifier, Segmentation, Segmenter, clip_probs
from ovseg.segmentation.semantic_map import semantic_maps
from tests.conftest import Toys
from tests.segmentation.conftest import with_text_prompts
from tests.towers import with_pseudo_texts
from tests.toys import QUERIES, WORDS, noise

NAMES = WORDS[:6]
ALL: tuple[Classifier, ...] = ("clip", "proposals", "ensemble")
FILLS: tuple[Fill, ...] = ("mean", "zero", "keep")


@pytest.fixture(scope="module")
def prompted(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same CLIP with mask prompts that change its embeddings much."""
    folder = tmp_path_factory.mktemp("prompted")
    clip = load_adapted(toys.clip)
    prompts = new_prompts(clip.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(clip.model, model_config(f"local-dir:{toys.clip}"), prompts, {}, folder)
    return folder


def assert_same(first: Segmentation, second: Segmentation, tolerance: float = 1e-4) -> None:
    assert np.array_equal(first.labels, second.labels) and np.array_equal(first.areas, second.areas)
    np.testing.assert_allclose(first.proposal_scores, second.proposal_scores, atol=tolerance)
    np.testing.assert_allclose(first.pixel_scores, second.pixel_scores, atol=QUERIES * tolerance)


@pytest.mark.parametrize("classifier", ALL)
def test_a_segmentation_is_its_steps_written_out(segmenter: Segmenter, clip: Clip, classifier: Classifier) -> None:
    pixels = noise(6)
    segmentation = segmenter.segment(pixels, NAMES, classifier)
    output, texts = segmenter.network.predict(pixels), segmenter.vocabulary(NAMES).texts
    no_object = output.query_embeddings @ output.no_object_embedding
    network = network_class_probs((output.query_embeddings @ texts.T).double(), no_object)
    rles = segmenter.binarize(pixels, output)
    assert all(rles)
    embeddings = []
    for rle in rles:
        assert rle is not None
        mask, box = masks.decode(rle, 48, 64), masks.box(rle, 48, 64)
        color = crops.fill_color("mean", clip.mean.tolist())
        crop, crop_mask = crops.crop_region(pixels, mask, box, clip.size, color, True)
        embeddings.append(clip.encode_crops(crop[None], crop_mask[None])[0])
    by_clip = clip_class_probs((torch.stack(embeddings) @ texts.T).double())
    scores = {"clip": by_clip, "proposals": network, "ensemble": network**0.3 * by_clip**0.7}[classifier]
    ((labels, values),) = semantic_maps([scores], output.mask_logits, output.extent, 48, 64)
    np.testing.assert_allclose(segmentation.proposal_scores, scores, atol=2e-3)
    np.testing.assert_allclose(segmentation.pixel_scores, values, atol=1e-2)
    assert (segmentation.labels == labels).mean() > 0.99 and segmentation.names == NAMES
    assert segmentation.areas.tolist() == [masks.area(rle, 48, 64) for rle in rles if rle]


def test_the_toy_models_distinguish_classes(segmenter: Segmenter) -> None:
    """Otherwise the tests of this file would prove little: some images have several classes, by all three classifiers."""
    labels = [[segmenter.segment(noise(seed), NAMES, classifier).labels for classifier in ALL] for seed in range(10)]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert any(not np.array_equal(by_classifier[i], by_classifier[j]) for by_classifier in labels)
    for i in range(len(ALL)):
        assert any(len(np.unique(by_classifier[i])) > 1 for by_classifier in labels)


@pytest.mark.parametrize("classifier", ALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (1, 10_000), (3, 10_000)])
def test_images_one_pixel_high_or_ten_thousand_wide_are_segmented(
    segmenter: Segmenter, size: tuple[int, int], classifier: Classifier
) -> None:
    segmentation = segmenter.segment(noise(0, *size), NAMES, classifier)
    assert segmentation.labels.shape == segmentation.pixel_scores.shape == size
    assert np.isfinite(segmentation.pixel_scores).all() and segmentation.labels.max() < len(NAMES)


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_the_batch_size_changes_nothing(segmenter: Segmenter, batch_size: int) -> None:
    for seed in (6, 9):
        other = replace(segmenter, batch_size=batch_size)
        assert_same(segmenter.segment(noise(seed), NAMES), other.segment(noise(seed), NAMES), 0)


def test_the_number_of_threads_changes_nothing(segmenter: Segmenter) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert_same(segmenter.segment(noise(0), NAMES), replace(segmenter, pool=pool).segment(noise(0), NAMES), 0)


def test_the_order_of_names_only_changes_their_numbers(segmenter: Segmenter) -> None:
    forward, backward = segmenter.segment(noise(0), NAMES), segmenter.segment(noise(0), NAMES[::-1])
    assert np.array_equal(forward.labels, len(NAMES) - 1 - backward.labels)


@pytest.mark.parametrize("classifier", ["proposals", "ensemble"])
def test_where_no_proposal_is_valid_the_network_alone_classifies(segmenter: Segmenter, classifier: Classifier) -> None:
    segmentation = replace(segmenter, mask_threshold=0.9999).segment(noise(0), NAMES, classifier)
    assert not segmentation.areas.any()
    by_network = segmenter.segment(noise(0), NAMES, "proposals")
    assert np.array_equal(segmentation.labels, by_network.labels)
    assert np.array_equal(segmentation.proposal_scores, by_network.proposal_scores)


def test_where_no_proposal_is_valid_clip_alone_has_nothing_to_say(segmenter: Segmenter) -> None:
    segmentation = replace(segmenter, mask_threshold=0.9999).segment(noise(0), NAMES, "clip")
    assert not segmentation.areas.any()
    assert not segmentation.proposal_scores.any() and not segmentation.pixel_scores.any()


def test_clip_classifies_only_the_valid_proposals(segmenter: Segmenter) -> None:
    pixels = noise(0)
    output = segmenter.network.predict(pixels)
    highest = sorted(output.mask_logits.flatten(1).amax(1).sigmoid().tolist())
    strict = replace(segmenter, mask_threshold=(highest[1] + highest[2]) / 2)
    by_clip = strict.segment(pixels, NAMES, "clip")
    valid = by_clip.areas > 0
    assert 1 <= valid.sum() < QUERIES
    assert not by_clip.proposal_scores[~valid].any()
    np.testing.assert_allclose(by_clip.proposal_scores[valid].sum(1), 1)


def test_others_adds_a_class_unless_it_is_given(segmenter: Segmenter) -> None:
    assert segmenter.segment(noise(0), ["star"], others=True).names == ("star", "others")
    for name in ("others", " Others ", "OTHERS"):
        assert segmenter.segment(noise(0), ["star", name], others=True).names == ("star", name.strip())
    assert segmenter.segment(noise(0), ["star"]).names == ("star",)


def test_names_and_their_vocabulary_give_the_same_segmentation(segmenter: Segmenter) -> None:
    names: list[str | list[str]] = ["star", ["boat", "kite"], "sky"]
    vocabulary = segmenter.vocabulary(names)
    assert_same(segmenter.segment(noise(0), names), segmenter.segment_with(noise(0), vocabulary), 0)
    assert vocabulary.names == ("star", "boat", "sky") and vocabulary.owner.tolist() == [0, 1, 1, 2]


def test_mask_prompts_change_what_clip_says_and_nothing_else(toys: Toys, segmenter: Segmenter, prompted: Path) -> None:
    assert segmenter.clip.prompts is None
    other = Segmenter.load(toys.network, prompted, mask_threshold=0.5, options=SegmentOptions(templates="single"))
    plain, with_prompts = (model.segment(noise(0), NAMES, "clip") for model in (segmenter, other))
    assert np.abs(plain.proposal_scores - with_prompts.proposal_scores).max() > 0.01
    assert np.array_equal(plain.areas, with_prompts.areas)
    plain, with_prompts = (model.segment(noise(0), NAMES, "proposals") for model in (segmenter, other))
    assert np.array_equal(plain.proposal_scores, with_prompts.proposal_scores)


def test_mask_prompts_change_nothing_in_unmasked_crops(segmenter: Segmenter, prompted: Path) -> None:
    plain = replace(segmenter, options=SegmentOptions(templates="single", view="crop"))
    with_prompts = replace(plain, clip=load_adapted(prompted))
    assert_same(plain.segment(noise(0), NAMES, "clip"), with_prompts.segment(noise(0), NAMES, "clip"))


def test_a_clip_for_region_tokens_names_proposals_in_one_pass(segmenter: Segmenter) -> None:
    one_pass = replace(segmenter, clip=with_regions(segmenter.clip, RegionSettings("region_tokens", 0)))
    pixels = noise(0)
    whole = np.ones(pixels.shape[:2], bool)
    rles = [None, masks.encode(cross()), masks.encode(whole)]
    regions = one_pass.crop_regions(pixels, rles)
    assert regions.valid.tolist() == [False, True, True]
    wanted = encode_regions(one_pass.clip, pixels, np.stack([cross(), whole]))
    assert torch.equal(one_pass.embed_regions(regions), wanted)
    assert one_pass.embed_regions(one_pass.crop_regions(pixels, [None])).shape == (0, one_pass.clip.width)
    assert one_pass.segment(pixels, NAMES).labels.shape == pixels.shape[:2]
    with pytest.raises(OvsegError, match=r"view=crop is for the region encoder crops.*region_tokens"):
        replace(one_pass, options=SegmentOptions(view="crop"))


def test_pseudo_texts_are_those_of_the_image_that_is_segmented(segmenter: Segmenter, tmp_path: Path) -> None:
    """The probabilities by CLIP are the softmax of regions times pseudo-texts, whose layer norm is the temperature."""
    clip = with_pseudo_texts(tmp_path)
    pseudo = replace(segmenter, clip=clip)
    rles = [None, masks.encode(cross()), masks.encode(~cross())]
    assert clip.pseudo_text is not None
    for seed in (0, 1):
        pixels = noise(seed)
        every = np.stack([cross(), ~cross()])
        on_grid = torch.cat([masks_on_grid(clip, every), torch.eye(4).reshape(4, 2, 2)])
        vectors = encode_in_one_pass(clip, whole_image(clip, pixels), on_grid)
        of_image = clip.pseudo_text(clip.embed_names(NAMES, "single"), vectors[None, 2:])[0]
        expected = (vectors[:2] @ of_image.T).softmax(1)
        regions = pseudo.crop_regions(pixels, rles)
        probs = clip_probs(regions.valid, pseudo.embed_regions(regions), pseudo.vocabulary(NAMES))
        torch.testing.assert_close(probs[1:].float(), expected, atol=1e-3, rtol=0)
        assert not probs[0].any()
    assert pseudo.segment(pixels, NAMES).labels.shape == pixels.shape[:2]
    with pytest.raises(OvsegError, match=r"no_object_in_clip=true compares .* no cosines; set it to false"):
        replace(pseudo, options=SegmentOptions(no_object_in_clip=True))


def crop_of_cross(segmenter: Segmenter, view: View = "crop-and-mask", fill: Fill = "mean") -> tuple[Tensor, Tensor]:
    """What CLIP encodes of a cross in an image: crop `[3, S, S]` and mask `[S, S]`."""
    segmenter = replace(segmenter, options=SegmentOptions(view=view), crop=CropOptions(fill=fill))
    regions = segmenter.crop_regions(noise(0), [None, masks.encode(cross())])
    assert regions.valid.tolist() == [False, True] and regions.rles == (None, masks.encode(cross()))
    return regions.crops[0], regions.masks[0]


def cross() -> masks.MaskArray:
    """In the columns 10 to 40 and the rows 5 to 25."""
    mask = np.zeros((48, 64), bool)
    mask[12:18, 10:41] = mask[5:26, 20:30] = True
    return mask


BOX = (10, 5, 31, 21)


def test_the_view_crop_and_mask_is_the_box_with_its_background_filled(segmenter: Segmenter, clip: Clip) -> None:
    color = crops.fill_color("mean", clip.mean.tolist())
    expected = crops.crop_region(noise(0), cross(), BOX, clip.size, color, True)
    assert all(torch.equal(a, b) for a, b in zip(crop_of_cross(segmenter), expected, strict=True))


def test_the_view_crop_is_the_box_as_it_is(segmenter: Segmenter, clip: Clip) -> None:
    box = noise(0)[5:26, 10:41]
    crop, mask = crop_of_cross(segmenter, view="crop")
    assert torch.equal(crop, crops.resize(box, box[..., 0] >= 0, clip.size, True)[0]) and mask.all()


def test_the_view_mask_is_the_whole_image_with_its_background_filled(segmenter: Segmenter, clip: Clip) -> None:
    color = crops.fill_color("mean", clip.mean.tolist())
    expected = crops.resize(crops.fill_background(noise(0), cross(), color), cross(), clip.size, True)
    assert all(torch.equal(a, b) for a, b in zip(crop_of_cross(segmenter, view="mask"), expected, strict=True))


@pytest.mark.parametrize("view", ["crop-and-mask", "mask"])
def test_every_masked_view_uses_the_fill_of_the_crop_recipe(segmenter: Segmenter, view: View) -> None:
    mean, zero, keep = (crop_of_cross(segmenter, view, fill)[0] for fill in FILLS)
    assert not torch.equal(mean, zero) and not torch.equal(mean, keep)


def test_the_fill_keep_leaves_the_background_and_the_mask(segmenter: Segmenter) -> None:
    crop, mask = crop_of_cross(segmenter, fill="keep")
    assert torch.equal(crop, crop_of_cross(segmenter, view="crop")[0]) and not mask.all()


def test_without_valid_proposals_there_are_no_crops_and_no_class_probabilities(segmenter: Segmenter) -> None:
    vocabulary = segmenter.vocabulary(NAMES)
    for rles in ([], [None, None]):
        regions = segmenter.crop_regions(noise(0), rles)
        assert regions.crops.shape == (0, 3, segmenter.clip.size, segmenter.clip.size)
        probs = clip_probs(regions.valid, segmenter.embed_regions(regions), vocabulary)
        assert probs.shape == (len(rles), len(NAMES)) and not probs.any()


def test_seen_classes_get_their_own_weight_mean_and_penalty(segmenter: Segmenter) -> None:
    pixels, seen = noise(0), torch.tensor([True, True, False, True, False, False])
    output = segmenter.network.predict(pixels)
    regions = segmenter.crop_regions(pixels, segmenter.binarize(pixels, output))
    probs = segmenter.classify(output, regions, segmenter.vocabulary(NAMES))
    other = replace(segmenter, options=SegmentOptions(weight_seen=0.2, average_seen=True, seen_penalty=0.3))
    scores = other.ensemble(probs, 0.7, seen)
    mean = probs.clip[:, seen].mean(1, keepdim=True)
    torch.testing.assert_close(scores[:, seen], probs.network[:, seen] ** 0.8 * mean**0.2)
    torch.testing.assert_close(scores[:, ~seen], probs.network[:, ~seen] ** 0.3 * probs.clip[:, ~seen] ** 0.7)
    assert torch.equal(other.ensemble(probs, 0.7), segmenter.ensemble(probs, 0.7))
    for seen_classes, penalty in ((seen, 0.3 * seen), (None, None)):
        labels, values = other.semantic_map(pixels, output, scores, seen_classes)
        (expected,) = semantic_maps([scores], output.mask_logits, output.extent, 48, 64, [penalty])
        assert np.array_equal(labels, expected[0])
        np.testing.assert_allclose(values, expected[1], atol=1e-6)


def test_no_object_and_masks_without_a_pixel_are_treated_as_the_options_say(segmenter: Segmenter) -> None:
    pixels, vocabulary = noise(0), segmenter.vocabulary(NAMES)
    output = segmenter.network.predict(pixels)
    rles = segmenter.binarize(pixels, output)
    regions = segmenter.crop_regions(pixels, [None, *rles[1:]])
    other = replace(segmenter, options=SegmentOptions(no_object_in_clip=True, invalid="boost"))
    plain, probs = segmenter.classify(output, regions, vocabulary), other.classify(output, regions, vocabulary)
    assert torch.equal(plain.network, probs.network) and not probs.clip[0].any()
    embeddings = segmenter.clip.encode_crops(regions.crops, regions.masks).half().float()
    no_object = 100 * (output.query_embeddings @ output.no_object_embedding).double()[1:, None]
    logits = torch.cat([100 * vocabulary.similarity(embeddings), no_object], dim=1)
    torch.testing.assert_close(probs.clip[1:], logits.softmax(1)[:, :-1], atol=1e-6, rtol=0)
    for seen in (None, torch.tensor([True, True, False, True, False, False])):
        torch.testing.assert_close(other.ensemble(probs, 0.7, seen)[0], probs.network[0] ** 0.3)
        assert torch.equal(segmenter.ensemble(probs, 0.7, seen)[0], probs.network[0])


def test_regions_are_compared_with_learned_prompts_and_queries_with_templates(segmenter: Segmenter) -> None:
    """The proposal network was trained with templates, so its word does not change with the CLIP beside it."""
    other = replace(segmenter, clip=with_text_prompts(segmenter.clip))
    vocabulary = other.vocabulary(WORDS[:4])
    assert torch.equal(vocabulary.texts, other.clip.encode_names(list(WORDS[:4])))
    assert vocabulary.network_texts is not None
    assert torch.equal(vocabulary.network_texts, segmenter.vocabulary(WORDS[:4]).texts)
    proposals, by_clip = (
        [model.segment(noise(0), WORDS[:4], classifier).proposal_scores for model in (segmenter, other)]
        for classifier in ("proposals", "clip")
    )
    assert (proposals[0] == proposals[1]).all() and abs(by_clip[0] - by_clip[1]).max() > 0.01


def test_the_error_about_another_text_tower_names_both_folders(toys: Toys, tiny_clip: Path) -> None:
    with pytest.raises(OvsegError, match=f"{toys.network} .*{tiny_clip}"):
        Segmenter.load(toys.network, tiny_clip)


def test_a_folder_without_a_network_or_without_a_clip_is_an_error(toys: Toys, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=rf"{toys.clip} .*proposal_network\.json"):
        Segmenter.load(toys.clip, toys.clip)
    with pytest.raises(OvsegError, match=f"{toys.network} "):
        Segmenter.load(toys.network, toys.network)
    with pytest.raises(OvsegError, match=f"{tmp_path / 'gone'} "):
        Segmenter.load(tmp_path / "gone", toys.clip)
    folder = Path(shutil.copytree(toys.network, tmp_path / "network"))
    state = load_file(folder / "model.safetensors")
    del state["class_predictor.no_object"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(OvsegError, match="no_object"):
        Segmenter.load(folder, toys.clip)
