"""Class names: which are errors, how they are embedded, and the warning when a name is truncated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from ovseg.clip.load import Clip
from ovseg.clip.region_settings import RegionSettings
from ovseg.core.errors import OvsegError
from ovseg.core.options import Synonyms
from ovseg.core.vocabulary import TEMPLATES, embed
from ovseg.segmentation.class_names import build_vocabulary
from ovseg.segmentation.segmenter import Segmenter
from tests.segmentation.conftest import with_text_prompts
from tests.toys import noise

LONG = "a very long name of a thing that nobody would ever call by it but who can know what people write in a box"


def one_each(names: Sequence[str]) -> list[list[str]]:
    return [[name] for name in names]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"--names"),
        ([""], "1 of 1"),
        (["cat", "  "], "2 of 2"),
        (["cat", "dog", "cat"], ": cat;"),
        (["Cat", "cat"], ": cat;"),
        (["a", "b", "a", "b"], ": a; b;"),
    ],
)
def test_no_name_an_empty_one_and_a_repeated_one_are_errors(clip: Clip, names: list[str], message: str) -> None:
    with pytest.raises(OvsegError, match=message):
        build_vocabulary(one_each(names), clip, "none")


def test_the_same_name_with_other_spaces_is_the_same(clip: Clip) -> None:
    with pytest.raises(OvsegError, match=": traffic light;"):
        build_vocabulary([["traffic light"], [" traffic   light "]], clip, "none")


@pytest.mark.parametrize(
    "name", ["caf\u00e9 d&#39;or", "cafe\u0301\u00a0d\u2019or", "\ufeffcaf&amp;eacute; d'or\u200b", "caf\u00e9\td'or"]
)
def test_names_are_taken_in_their_normal_form(clip: Clip, name: str) -> None:
    """Two ways to write a name are the same name."""
    assert build_vocabulary([[name], ["sky"]], clip, "none").names == ("caf\u00e9 d'or", "sky")
    with pytest.raises(OvsegError, match="d'or"):
        build_vocabulary([[name], ["caf\u00e9 d'or"]], clip, "none")


def test_a_name_of_characters_that_cannot_be_seen_is_empty(clip: Clip) -> None:
    with pytest.raises(OvsegError, match="2 of 2"):
        build_vocabulary([["cat"], ["\u200b\u00a0"]], clip, "none")


def test_a_class_without_any_name_is_an_error(clip: Clip) -> None:
    with pytest.raises(OvsegError, match="2 of 2"):
        build_vocabulary([["cat"], []], clip, "none")


@pytest.mark.parametrize("templates", ["none", "single", "vild"])
def test_each_name_is_embedded_with_its_templates(clip: Clip, templates: str) -> None:
    names = ["star", "traffic light"]
    vocabulary = build_vocabulary(one_each(names), clip, templates)  # type: ignore[arg-type]
    assert vocabulary.names == ("star", "traffic light") and vocabulary.owner.tolist() == [0, 1]
    torch.testing.assert_close(vocabulary.texts, embed(names, clip.encode_texts, templates, 64))  # type: ignore[arg-type]


def test_two_thousand_names_segment_an_image(segmenter: Segmenter, clip: Clip) -> None:
    names = [f"thing {i}" for i in range(1999)] + ["star"]
    vocabulary = build_vocabulary(one_each(names), clip, "none")
    assert vocabulary.texts.shape == (2000, clip.width)
    segmentation = segmenter.segment_with(noise(0), vocabulary)
    assert (
        len(segmentation.names) == 2000
        and segmentation.labels.max() < 2000
        and segmentation.proposal_scores.shape[1] == 2000
    )


@pytest.mark.parametrize("names", [["猫", "собака", "père Noël", "🐈"], ["café", "CAFE"], ["{}", "100% \\n", "a|b"]])
def test_names_in_any_language_and_with_any_character_are_accepted(clip: Clip, names: list[str]) -> None:
    vocabulary = build_vocabulary(one_each(names), clip, "vild")
    assert vocabulary.names == tuple(names) and vocabulary.texts.isfinite().all()
    assert len(torch.unique(vocabulary.texts, dim=0)) == len(names)


def test_a_warning_names_what_exceeds_the_context(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    build_vocabulary([["star"], [LONG]], clip, "none")
    assert LONG[:60] in caplog.text and "16 tokens" in caplog.text
    assert "star" not in caplog.text.replace(LONG[:60], "")


def test_there_is_no_warning_of_names_that_fit(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    build_vocabulary([["star"], ["a"], ["one two three four five six"]], clip, "none")
    assert not caplog.text


def test_a_warning_names_what_exceeds_the_context_with_its_template(
    clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """12 words fit into 16 tokens; "a photo of a ... ." around them does not."""
    name = "one two three four five six seven eight nine ten eleven twelve"
    assert torch.equal(
        clip.encode_texts([f"a photo of a {name}."]), clip.encode_texts([f"a photo of a {name} and more."])
    )
    build_vocabulary([["star"], [name]], clip, "single")
    assert name[:60] in caplog.text


def test_names_that_fit_a_tokenizer_without_punctuation_are_not_reported(
    clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """SigLIP's tokenizers drop the full stop at the end of a template."""
    without_stop = replace(clip, tokenizer=lambda texts: clip.tokenizer([text.replace(".", "") for text in texts]))
    build_vocabulary([["star"], [LONG]], without_stop, "single")
    assert caplog.text.startswith("WARNING") and "1 class names exceed" in caplog.text and LONG[:60] in caplog.text


def test_a_name_that_just_fills_the_context_is_not_reported(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    name = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert clip.tokenizer([name])[0].all()
    build_vocabulary([[name]], clip, "none")
    assert not caplog.text
    build_vocabulary([[f"{name} fifteen"]], clip, "none")
    assert "1 class names exceed" in caplog.text


def test_learned_text_prompts_leave_less_room_for_names(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    """Of 16 tokens, 5 are the context vectors, and 3 are start, full stop and end; the template does not count."""
    prompted, fits = with_text_prompts(clip), "one two three four five six seven eight"
    build_vocabulary([[fits]], prompted, "vild")
    assert not caplog.text
    build_vocabulary([[fits], [f"{fits} nine ten"]], prompted, "single")
    assert "1 class names exceed, with their learned text prompts, the 16 tokens" in caplog.text


@pytest.mark.parametrize("synonyms", ["max", "mean", "joined"])
def test_with_template_weights_texts_are_encoded_once(clip: Clip, synonyms: Synonyms) -> None:
    classes, weights = [["road", "route"], ["sky"]], tuple(0.1 * i for i in range(len(TEMPLATES["vild"])))
    calls: list[list[str]] = []
    counted = replace(
        clip,
        tokenizer=lambda texts: calls.append(texts) or clip.tokenizer(texts),  # type: ignore[func-returns-value]
        regions=RegionSettings(templates="vild", template_weights=weights),
    )
    vocabulary, plain = (build_vocabulary(classes, one, "vild", synonyms) for one in (counted, clip))
    names = ["road, route", "sky"] if synonyms == "joined" else ["road", "route", "sky"]
    texts = [form.format(name) for name in names for form in TEMPLATES["vild"]]
    assert [call for call in calls if call == texts] == [texts]
    expected = clip.encode_texts(texts).reshape(len(names), len(weights), -1).mul(torch.tensor(weights)[:, None]).sum(1)
    if synonyms == "mean":
        expected = torch.stack([expected[:2].mean(0), expected[2]])
    torch.testing.assert_close(vocabulary.texts, expected)
    assert vocabulary.network_texts is not None and torch.equal(vocabulary.network_texts, plain.texts)


def test_the_most_similar_synonym_of_a_class_counts(clip: Clip) -> None:
    vocabulary = build_vocabulary([["road", "route", "street"], ["sky"], ["grass", "lawn"]], clip, "none")
    assert vocabulary.names == ("road", "sky", "grass") and vocabulary.owner.tolist() == [0, 0, 0, 1, 2, 2]
    features = torch.nn.functional.normalize(
        torch.randn(7, clip.width, generator=torch.Generator().manual_seed(0)), dim=1
    )
    cosines = (features @ vocabulary.texts.T).double()
    expected = torch.stack([cosines[:, :3].amax(1), cosines[:, 3], cosines[:, 4:].amax(1)], dim=1)
    similarity = vocabulary.similarity(features)
    assert similarity.shape == (7, 3) and similarity.dtype == torch.float64
    torch.testing.assert_close(similarity, expected, atol=1e-5, rtol=0)


def test_cosines_that_are_all_negative_are_kept(clip: Clip) -> None:
    vocabulary = build_vocabulary([["star"], ["key"]], clip, "none")
    features = torch.nn.functional.normalize(-vocabulary.texts.sum(0, keepdim=True), dim=1)
    torch.testing.assert_close(
        vocabulary.similarity(features), (features @ vocabulary.texts.T).double(), atol=1e-5, rtol=0
    )


def test_synonyms_may_be_joined_to_one_text(clip: Clip) -> None:
    vocabulary = build_vocabulary([["road", "route"], ["sky"]], clip, "single", "joined")
    assert vocabulary.names == ("road", "sky") and vocabulary.owner.tolist() == [0, 1]
    torch.testing.assert_close(vocabulary.texts, embed(["road, route", "sky"], clip.encode_texts, "single", 64))


def test_a_class_may_be_the_mean_over_its_names_and_templates(clip: Clip) -> None:
    """ZegFormer: the mean of the unit vectors of all texts of a class, then unit length."""
    classes = [["road", "route", "street"], ["sky"]]
    vocabulary = build_vocabulary(classes, clip, "vild", "mean")
    for k, names in enumerate(classes):
        texts = clip.encode_texts([form.format(name) for name in names for form in TEMPLATES["vild"]])
        torch.testing.assert_close(vocabulary.texts[k], texts.mean(0) / texts.mean(0).norm(), atol=1e-6, rtol=0)
    assert vocabulary.names == ("road", "sky") and vocabulary.owner.tolist() == [0, 1]
    assert vocabulary.phrases == ("road", "route", "street", "sky")


def test_the_mean_of_synonyms_is_that_of_the_learned_embeddings(clip: Clip) -> None:
    prompted = with_text_prompts(clip)
    vocabulary = build_vocabulary([["road", "route"], ["sky"]], prompted, "vild", "mean")
    road = prompted.encode_names(["road", "route"]).mean(0)
    torch.testing.assert_close(vocabulary.texts[0], road / road.norm())


def test_empty_and_repeated_synonyms_change_nothing(clip: Clip) -> None:
    plain = build_vocabulary([["road", "route"], ["sky"]], clip, "none")
    vocabulary = build_vocabulary([["road", "", "route ", "road", "  "], ["sky"]], clip, "none")
    assert torch.equal(vocabulary.owner, plain.owner)
    torch.testing.assert_close(vocabulary.texts, plain.texts)


def test_empty_synonyms_change_nothing_in_a_joined_text(clip: Clip) -> None:
    plain, vocabulary = (
        build_vocabulary([names], clip, "none", "joined") for names in (["road", "route"], ["road ", "", "route"])
    )
    torch.testing.assert_close(vocabulary.texts, plain.texts)


def test_zero_regions_have_a_similarity_of_zero_rows(clip: Clip) -> None:
    assert build_vocabulary([["star"], ["key"]], clip, "none").similarity(torch.zeros(0, clip.width)).shape == (0, 2)
