"""Names: which are refused, what is embedded of them, and that people are told when a name is cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ovseg.clip.load import Clip
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import embed
from ovseg.segmentation.names import vocabulary
from ovseg.segmentation.segmenter import Segmenter
from tests.toys import noise

LONG = "a very long name of a thing that nobody would ever call by it but who can know what people write in a box"


def one_each(names: Sequence[str]) -> list[list[str]]:
    return [[name] for name in names]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no names are given"),
        ([""], "name 1 of 1 is empty"),
        (["cat", "  "], "name 2 of 2 is empty"),
        (["cat", "dog", "cat"], "more than once: cat"),
        (["Cat", "cat"], "more than once: cat"),
        (["a", "b", "a", "b"], "more than once: a; b"),
    ],
)
def test_no_name_an_empty_one_and_one_that_comes_twice_are_refused(clip: Clip, names: list[str], said: str) -> None:
    with pytest.raises(OvsegError, match=said):
        vocabulary(one_each(names), clip, "none")


def test_the_same_name_with_other_spaces_is_the_same(clip: Clip) -> None:
    with pytest.raises(OvsegError, match="more than once: traffic light"):
        vocabulary([["traffic light"], [" traffic   light "]], clip, "none")


def test_a_class_without_any_name_is_refused(clip: Clip) -> None:
    with pytest.raises(OvsegError, match="name 2 of 2 is empty"):
        vocabulary([["cat"], []], clip, "none")


@pytest.mark.parametrize("templates", ["none", "single", "vild"])
def test_each_name_is_embedded_with_its_templates(clip: Clip, templates: str) -> None:
    names = ["star", "traffic light"]
    found = vocabulary(one_each(names), clip, templates)  # type: ignore[arg-type]
    assert found.names == ("star", "traffic light") and found.owner.tolist() == [0, 1]
    torch.testing.assert_close(found.texts, embed(names, clip.encode_texts, templates, 64))  # type: ignore[arg-type]


def test_two_thousand_names_segment_an_image(segmenter: Segmenter, clip: Clip) -> None:
    names = [f"thing {i}" for i in range(1999)] + ["star"]
    words = vocabulary(one_each(names), clip, "none", batch_size=512)
    assert words.texts.shape == (2000, clip.width)
    found = segmenter.segment_with(noise(0), words)
    assert len(found.names) == 2000 and found.labels.max() < 2000 and found.proposals.shape[1] == 2000


@pytest.mark.parametrize("names", [["猫", "собака", "père Noël", "🐈"], ["café", "CAFE"], ["{}", "100% \\n", "a|b"]])
def test_names_of_any_language_and_with_any_signs_are_taken(clip: Clip, names: list[str]) -> None:
    found = vocabulary(one_each(names), clip, "vild")
    assert found.names == tuple(names) and found.texts.isfinite().all()
    assert len(torch.unique(found.texts, dim=0)) == len(names)


def test_a_name_longer_than_the_context_is_named_in_a_warning(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    vocabulary([["star"], [LONG]], clip, "none")
    assert (
        f"1 names are, with the sentence around them, longer than the 16 tokens that this CLIP reads, and are cut: {LONG[:60]}"
        in caplog.text
    )
    assert "star" not in caplog.text.replace(LONG[:60], "")


def test_names_that_fit_are_not_warned_of(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    vocabulary([["star"], ["a"], ["one two three four five six"]], clip, "none")
    assert not caplog.text


def test_a_name_that_its_template_makes_too_long_is_named_too(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    """12 words fit into 16 tokens; "a photo of a ... ." around them does not."""
    name = "one two three four five six seven eight nine ten eleven twelve"
    assert torch.equal(
        clip.encode_texts([f"a photo of a {name}."]), clip.encode_texts([f"a photo of a {name} and more."])
    )
    vocabulary([["star"], [name]], clip, "single")
    assert name[:60] in caplog.text


def test_the_best_of_a_class_s_synonyms_decides(clip: Clip) -> None:
    found = vocabulary([["road", "route", "street"], ["sky"], ["grass", "lawn"]], clip, "none")
    assert found.names == ("road", "sky", "grass") and found.owner.tolist() == [0, 0, 0, 1, 2, 2]
    features = torch.nn.functional.normalize(
        torch.randn(7, clip.width, generator=torch.Generator().manual_seed(0)), dim=1
    )
    cosines = (features @ found.texts.T).double()
    wanted = torch.stack([cosines[:, :3].amax(1), cosines[:, 3], cosines[:, 4:].amax(1)], dim=1)
    similarity = found.similarity(features)
    assert similarity.shape == (7, 3) and similarity.dtype == torch.float64
    torch.testing.assert_close(similarity, wanted, atol=1e-5, rtol=0)


def test_cosines_that_are_all_negative_are_kept(clip: Clip) -> None:
    found = vocabulary([["star"], ["key"]], clip, "none")
    features = torch.nn.functional.normalize(-found.texts.sum(0, keepdim=True), dim=1)
    torch.testing.assert_close(found.similarity(features), (features @ found.texts.T).double(), atol=1e-5, rtol=0)


def test_synonyms_may_be_one_text_as_in_the_reference(clip: Clip) -> None:
    found = vocabulary([["road", "route"], ["sky"]], clip, "single", "joined")
    assert found.names == ("road", "sky") and found.owner.tolist() == [0, 1]
    torch.testing.assert_close(found.texts, embed(["road, route", "sky"], clip.encode_texts, "single", 64))


def test_synonyms_that_are_empty_or_come_twice_add_nothing(clip: Clip) -> None:
    plain = vocabulary([["road", "route"], ["sky"]], clip, "none")
    found = vocabulary([["road", "", "route ", "road", "  "], ["sky"]], clip, "none")
    assert torch.equal(found.owner, plain.owner)
    torch.testing.assert_close(found.texts, plain.texts)


def test_empty_synonyms_add_nothing_to_a_joined_text(clip: Clip) -> None:
    plain, found = (vocabulary([some], clip, "none", "joined") for some in (["road", "route"], ["road ", "", "route"]))
    torch.testing.assert_close(found.texts, plain.texts)


def test_no_regions_have_no_similarity(clip: Clip) -> None:
    assert vocabulary([["star"], ["key"]], clip, "none").similarity(torch.zeros(0, clip.width)).shape == (0, 2)
