"""Nouns of captions, with real taggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import NounsOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.nouns import extract_nouns, nouns_of, read_stop_list, rejection_reason
from ovseg.mining.tagger import load_tagger

Row = dict[str, Any]


def index_of(folder: Path, captions: Sequence[Sequence[str]]) -> Path:
    """An index of one part: a row for each list of captions."""
    rows: list[Row] = [
        {
            "image_id": i,
            "captions": [{"id": 10 * i + k, "text": text} for k, text in enumerate(texts)],
            "problem": None,
        }
        for i, texts in enumerate(captions, start=1)
    ]
    folder.mkdir(exist_ok=True)
    tables.write_part(folder / "00000.parquet", "index", rows, "f")
    return folder


def extracted(
    captions: Sequence[Sequence[str]], tagger: str, tmp_path: Path, runtime: Runtime, **options: Any
) -> tuple[list[Row], dict[str, int]]:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    counts = extract_nouns(index_of(tmp_path / "index", captions), out, runtime, NounsOptions(model=tagger, **options))
    return list(tables.rows(out, "nouns")), counts


def test_compounds_lemmas_and_spans(each_tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """A compound stays together, a plural becomes its lemma, and the span is its position in the caption."""
    text = "Stars and a traffic light beside two boats ."
    rows, _ = extracted([[text]], each_tagger, tmp_path, runtime)
    assert [row["noun"] for row in rows] == ["star", "traffic light", "boat"]
    assert [text[row["start"] : row["end"]] for row in rows] == ["Stars", "traffic light", "boats"]


def test_single_words_are_a_choice(each_tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    rows, _ = extracted([["A traffic light beside two boats ."]], each_tagger, tmp_path, runtime, unit="token")
    assert [row["noun"] for row in rows] == ["traffic", "light", "boat"]


def test_phrases_keep_adjectives(each_tagger: str) -> None:
    """Those right before the noun, in their order; an adjective without a noun is none, and the next phrase starts anew."""
    text = "A small red traffic light beside boats , blue kites and stars which are big"
    doc = load_tagger(each_tagger)(text)
    adjectives, nouns = ("small", "red", "blue", "big"), ("traffic", "light", "boats", "kites", "stars")
    for token in doc:
        token.pos_ = "ADJ" if token.text in adjectives else "NOUN" if token.text in nouns else "DET"
    phrases = list(nouns_of(doc, "phrase"))
    assert [doc.text[noun.start : noun.end] for noun in phrases] == [
        "small red traffic light",
        "boats",
        "blue kites",
        "stars",
    ]
    assert phrases[0].noun == "small red traffic light"
    assert [noun.noun for noun in nouns_of(doc, "chunk")] == [
        phrases[0].noun[10:],
        *(n.noun.split()[-1] for n in phrases[1:]),
    ]


def test_a_stop_noun_is_left_out_with_its_adjectives(each_tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    captions = [["A beautiful photo of a red kite and a kite ."]]
    rows, counts = extracted(captions, each_tagger, tmp_path, runtime, unit="phrase")
    assert [row["noun"] for row in rows] == ["red kite", "kite"] and counts["dropped.stop_noun"] == 1


def test_a_noun_comes_once_an_image(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """The first mention is kept, with its caption; another image has its own."""
    captions = [["A star beside a boat .", "Two stars and a key ."], ["A star and a boat ."]]
    rows, counts = extracted(captions, tagger, tmp_path, runtime, captions_per_image="all")
    assert [(row["image_id"], row["noun"], row["caption_id"]) for row in rows] == [
        (1, "star", 10),
        (1, "boat", 10),
        (1, "key", 11),
        (2, "star", 20),
        (2, "boat", 20),
    ]
    assert counts["dropped.repeated"] == 1 and counts["nouns"] == 5 and counts["captions"] == 3


def test_one_caption_is_the_one_with_the_lowest_id(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    captions = [["A star beside a boat .", "A key ."]]
    rows, counts = extracted(captions, tagger, tmp_path, runtime, captions_per_image=1)
    assert [row["noun"] for row in rows] == ["star", "boat"] and counts["captions"] == 1


def test_the_stop_list_takes_nouns_out(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """The one that comes along drops "photo" and "side"; another one replaces it, with remarks and blank lines."""
    captions = [["A photo of a star on the left side of a boat ."]]
    rows, counts = extracted(captions, tagger, tmp_path, runtime)
    assert [row["noun"] for row in rows] == ["star", "boat"] and counts["dropped.stop_noun"] == 2
    path = tmp_path / "stop.txt"
    path.write_text("# ours\n\nBoat # not today\n", encoding="utf-8")
    rows, _ = extracted(captions, tagger, tmp_path, runtime, stop_list=path)
    assert {"photo", "star"} <= {row["noun"] for row in rows} and "boat" not in {row["noun"] for row in rows}
    with pytest.raises(OvsegError, match="does not exist"):
        read_stop_list(tmp_path / "gone.txt")


def test_the_stop_list_is_well_formed() -> None:
    stop = read_stop_list(None)
    assert {"photo", "group", "side", "top"} <= stop and all(word == word.strip().lower() and word for word in stop)


@pytest.mark.parametrize(
    ("noun", "reason"),
    [
        ("dog", None),
        ("t-shirt", None),
        ("dog's", None),
        ("traffic light", None),
        ("bär", None),
        ("x", "not_a_word"),
        ("", "not_a_word"),
        ("42", "not_a_word"),
        ("😀", "not_a_word"),
        ("a1", "not_a_word"),
        ("photo", "stop_noun"),
        ("--", "not_a_word"),
    ],
)
def test_what_is_no_word_is_rejected(noun: str, reason: str | None) -> None:
    assert rejection_reason(noun, frozenset({"photo"})) == reason


def test_an_emoji_takes_no_noun_with_it(each_tagger: str) -> None:
    """An emoji tagged as a noun must not be joined with the word before or after it."""
    doc = load_tagger(each_tagger)("A star 😀 and a boat ⛵")
    for token in doc:
        token.pos_ = "NOUN" if token.text in ("star", "😀", "boat", "⛵") else "DET"
    nouns = list(nouns_of(doc, "chunk"))
    assert [doc.text[noun.start : noun.end] for noun in nouns] == ["star", "😀", "boat", "⛵"]
    assert len(list(nouns_of(doc, "token"))) == 4


def test_odd_captions_cost_nothing_else(each_tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """None, empty, blank, without nouns, emoji, right to left, control signs, 10,000 words: all are counted."""
    long = "A star beside a boat . " * 2000
    captions = [
        [],
        [""],
        ["  \n\t"],
        ["It is ."],
        ["😀😀 ⛵"],
        ["قطة على العشب"],
        ["\x00\x07\u202e"],
        [long],
        ["A" * 10_000],
        ["A key on the grass ."],
    ]
    rows, counts = extracted(captions, each_tagger, tmp_path, replace(runtime, max_dropped=1))
    by_image: dict[int, list[str]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row["noun"])
    assert by_image[10] == ["key", "grass"] and {"star", "boat"} <= set(by_image[8])
    assert not {1, 2, 3} & set(by_image)
    assert counts["dropped.no_caption"] == 1 and counts["dropped.empty_caption"] == 2
    assert counts["dropped.caption_without_noun"] >= 1
    assert counts["captions"] == 7 and counts["nouns"] == len(rows)


def test_an_image_that_cannot_be_used_has_no_nouns(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "index").mkdir()
    rows = [
        {"image_id": i, "captions": [{"id": 1, "text": "A star ."}], "problem": p}
        for i, p in ((1, "missing"), (2, None))
    ]
    tables.write_part(tmp_path / "index" / "00000.parquet", "index", rows, "f")
    counts = extract_nouns(tmp_path / "index", tmp_path / "out", runtime, NounsOptions(model=tagger))
    assert counts == {"captions": 1, "nouns": 1}
    assert [row["image_id"] for row in tables.rows(tmp_path / "out", "nouns")] == [2]


def test_the_pipe_finds_what_single_calls_find(each_tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """Batches with switched-off components give the nouns of the full pipeline caption by caption."""
    import spacy

    texts = [
        f"{a} {b} beside the {c} ."
        for a in ("A", "Two red")
        for b in ("star", "boats")
        for c in ("traffic light", "grass")
    ]
    rows, _ = extracted([[text] for text in texts], each_tagger, tmp_path, runtime)
    nlp = spacy.load(each_tagger)
    expected = [(i, n.noun) for i, text in enumerate(texts, 1) for n in nouns_of(nlp(text), "chunk")]
    assert [(row["image_id"], row["noun"]) for row in rows] == list(dict.fromkeys(expected))


def test_the_model_and_the_choices_are_in_the_fingerprint(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """Other choices give another table, and never reuse what lies in an output folder."""
    index = index_of(tmp_path / "index", [["A traffic light ."]])
    for number, options in enumerate(({}, {"unit": "token"}, {"captions_per_image": "all"})):
        choice: Row = dict(options)
        extract_nouns(index, tmp_path / f"out{number}", runtime, NounsOptions(model=tagger, **choice))
    prints = {tables.fingerprint(tmp_path / f"out{number}", "nouns") for number in range(3)}
    assert len(prints) == 3
    with pytest.raises(OvsegError, match="out0"):
        extract_nouns(index, tmp_path / "out0", runtime, NounsOptions(model=tagger, unit="token"))
