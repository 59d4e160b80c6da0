"""The normal form of captions and class names, and sentences made of capitals."""

from __future__ import annotations

import html
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.core.text import normalize, sentence_case

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202e\u2066\u034f\ufe0f\x00\x07\x1b\x7f\x9f\ue000"
BLANKS = "\t\n\r\v\f\x1c\x85\u00a0\u1680\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u2800\u3164"
ENTITIES = ("&amp;", "&amp", "&#39;", "&#x27;", "&quot;", "&nbsp;", "&eacute;", "&lt;", "&#8203;", "&#0;", "&rsquo;")
PIECES = (
    *ENTITIES,
    "amp;",
    "&",
    "#38;",
    *INVISIBLE,
    *BLANKS,
    " ",
    "e\u0301",
    "\u212a",
    "\u037e",
    "\u00b4",
    "\u2019",
    "\ud83d",
    "dog",
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5))).map("".join)
words = st.text("abcdefghijklmnopqrstuvwxyzéüñ'-", min_size=1, max_size=8)


@settings(deadline=None)
@given(texts)
def test_the_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


@settings(deadline=None)
@given(texts)
def test_a_normal_form_is_composed_and_all_of_it_can_be_seen(text: str) -> None:
    """No control, formatting, private or half characters, no blank but the space, nothing that could be composed."""
    normal = normalize(text)
    assert unicodedata.is_normalized("NFC", normal)
    assert not {unicodedata.category(letter) for letter in normal} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert {letter for letter in normal if letter.isspace()} <= {" "}
    assert not set(normal) & set(INVISIBLE + BLANKS + "\u2018\u2019")
    normal.encode("utf-8")


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    """Also its double spaces, and those at its ends: the nouns of such captions are what they have always been."""
    assert normalize(text) == text


@settings(deadline=None)
@given(st.lists(words, min_size=1), st.integers(1, 4), st.data())
def test_what_cannot_be_seen_changes_nothing(pieces: list[str], escapes: int, data: st.DataObject) -> None:
    """Text that is decomposed, escaped several times, and full of invisible characters and odd blanks is the same text."""
    plain = unicodedata.normalize("NFC", " ".join(pieces))
    odd = data.draw(st.sampled_from(BLANKS)).join(unicodedata.normalize("NFD", piece) for piece in pieces)
    for _ in range(escapes):
        odd = html.escape(odd.replace("'", data.draw(st.sampled_from("'\u2019\u02bc\uff07"))))
    position = data.draw(st.integers(0, len(plain)))
    odd = data.draw(st.sampled_from(INVISIBLE)) + odd if position % 2 else odd + data.draw(st.sampled_from(INVISIBLE))
    assert normalize(odd) == plain


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp;amp; pepper", "salt & pepper"),
        ("salt &amp pepper", "salt & pepper"),
        ("SALT &AMP; PEPPER &NBSP; &EACUTE;", "SALT & PEPPER é"),
        ("a dog&amp;#39;s bowl", "a dog's bowl"),
        ("a dog&#39s bowl, a &ldquo;bone&rdquo;", 'a dog\'s bowl, a "bone"'),
        ("AT&T, R&B; fish&chips, black&regal", "AT&T, R&B; fish&chips, black&regal"),
        ("cafe\u0301", "caf\u00e9"),
        ("traffic\u00a0light", "traffic light"),
        ("traffic\u200b \u2009light\r\n", "traffic light"),
        ("traf\u00adfic\u200blight", "trafficlight"),
        ("\ufeffA dog \u202e", "A dog"),
        ("a dog\u2019s, a dog\u02bcs, a dog\u00b4s, a dog\x92s", "a dog's, a dog's, a dog's, a dog's"),
        ("a t\u2011shirt", "a t-shirt"),
        ("\ufb01sh and \uff44\uff4f\uff47", "fish and dog"),
        ("half an emoji \ud83d here", "half an emoji here"),
        ("½ of a 狗 ™ …", "½ of a 狗 ™ …"),
        ("\u200b\u00a0\n", ""),
        ("", ""),
    ],
)
def test_normal_forms(text: str, normal: str) -> None:
    assert normalize(text) == normal


def test_a_long_text_is_normalized_in_no_time() -> None:
    """Escapes and blanks by the hundred thousand are no quadratic work."""
    assert normalize("&" + "amp;" * 200_000 + "lt;") == "<"
    assert normalize("a" + " " * 500_000 + "\u00a0b") == "a b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A DOG ON THE GRASS", "A dog on the grass"),
        ("A Dog On The Grass.", "A dog on the grass."),
        ("Two Dogs on a Beach with a Ball", "Two dogs on a beach with a ball"),
        ("DOGS", "Dogs"),
        ("4 MEN", "4 men"),
        ("\u201cTHE DOG\u2019S BOWL\u201d", "\u201cThe dog\u2019s bowl\u201d"),
        ("Don'T Touch The T-Shirt", "Don't touch the t-shirt"),
        ("A DOG. A CAT! AND I?", "A dog. A cat! And I?"),
        ("tHE DOG", "The dog"),
        ("the sign says DO NOT ENTER here", "the sign says do not enter here"),
        ("İSTANBUL STRASSE", "İstanbul strasse"),
    ],
)
def test_capitals_and_titles_become_sentences(text: str, sentence: str) -> None:
    assert sentence_case(text) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "A man in New York",
        "a dog",
        "Dog",
        "A TV in a room",
        "An American Airlines plane is in the sky",
        "This is Big Ben",
        "A sign of the MGM Grand in Las Vegas",
        "狗在草地上",
        "",
    ],
)
def test_names_in_sentences_stay(text: str) -> None:
    assert sentence_case(text) == text


@settings(deadline=None)
@given(st.one_of(texts, st.lists(words).map(" ".join).map(str.title), st.text()))
def test_a_sentence_has_the_letters_of_its_text_at_the_same_places(text: str) -> None:
    sentence = sentence_case(text)
    assert len(sentence) == len(text)
    assert all(a == b or b in (a.lower(), a.upper()) for a, b in zip(text, sentence, strict=True))
