"""Step `nouns`: extracts the nouns of each image's captions, with their position in the caption (paper 3.2).

The paper parses captions with NLTK and describes no filter; here spaCy gives tags and lemmas. A compound ("traffic light")
is a maximal run of consecutive nouns, for which tags are enough: the parser and other components are switched off.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovseg.core import tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.options import CaptionsPerImage, NounsOptions, NounUnit
from ovseg.core.text import normalize, sentence_case
from ovseg.core.text_files import read_text
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task, unit_names
from ovseg.mining.tagger import check_version, load_tagger, model_fingerprint

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

CAPTIONS_PER_BATCH = 256
MAX_CAPTION = 100_000
"""The largest number of characters of a caption that is tagged; spaCy's own limit is a million, and gigabytes of memory."""
NOUNS_IN_CAPITALS = frozenset({"de", "lb"})
"""The languages that write every noun with a capital, by which their pipelines know it."""
TOTALS = (
    Total("nouns", "not_a_word|stop_noun|repeated", chosen=True),
    Total("captions", "caption_without_noun", part=True),
    Total("captions"),
)

Row = dict[str, Any]


class Noun(NamedTuple):
    """A noun of a caption.

    Attributes:
        noun: the lemma in lower case; of a compound or a phrase, the last word is the lemma.
        start, end: the characters of the caption that it was read from, `caption[start:end]`.
    """

    noun: str
    start: int
    end: int


def extract_nouns(index: Path, out: Path, runtime: Runtime, options: NounsOptions) -> dict[str, int]:
    """Write the table `nouns`, one row per image and noun; of a repeated noun the first mention is kept.

    Args:
        index: folder of the table `index`.
        out: folder of the table `nouns`.
        runtime: workers, folder of unfinished work.
        options: parameters of the step.

    Returns:
        counts: captions read, nouns, and dropped captions and nouns by reason.

    Raises:
        OvsegError: the spaCy pipeline cannot be used (see `load_tagger`) or has another version; the stop list is missing or
            no text.
    """
    stop_nouns = read_stop_list(options.stop_list)
    check_version(options.model, options.model_version)
    key = step_key(
        "nouns",
        __name__,
        index=tables.fingerprint(index, "index"),
        model=model_fingerprint(options.model),
        options=options.model_dump(include={"unit", "captions_per_image"}),
        stop_nouns=sorted(stop_nouns),
        schema=tables.SCHEMA_VERSION,
    )
    factory = _NounsTaskFactory(index, key.fingerprint, options, stop_nouns)
    return run_step(key, list(unit_names(index)), factory, out, runtime, totals=TOTALS)


def read_stop_list(path: Path | None) -> frozenset[str]:
    """Read the nouns to leave out: one per line; the rest of a line after `#` is a comment.

    Args:
        path: the file; None for the list that comes with ovseg.

    Raises:
        OvsegError: the file does not exist, or is not text.
    """
    if path is None:
        text = resources.files(__package__).joinpath("stop_nouns.txt").read_text(encoding="utf-8")
    elif path.is_file():
        text = read_text(path)
    else:
        raise OvsegError(f"nouns.stop_list={path} does not exist")
    lines = (normalize(line.split("#")[0]).strip().lower() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def nouns_of(doc: Doc, unit: NounUnit) -> Iterator[Noun]:
    """Iterate over the nouns of a tagged caption in order, before any filter.

    Args:
        doc: the caption, tagged.
        unit: "token" yields every single noun, "chunk" every maximal run of nouns as one, "phrase" the adjectives right before
            such a run with it ("red kite").
    """
    run: list[Any] = []
    for token in doc:
        noun = token.pos_ in ("NOUN", "PROPN")
        word = any(letter.isalpha() for letter in token.text)  # an emoji is no part of a compound
        if word and noun and unit != "token":
            run.append(token)
            continue
        adjective = word and unit == "phrase" and token.pos_ == "ADJ"
        if adjective and (not run or run[-1].pos_ == "ADJ"):
            run.append(token)
            continue
        if run and run[-1].pos_ != "ADJ":
            yield _chunk(run)
        run = [token] if adjective else []
        if noun:
            yield Noun(token.lemma_.lower(), token.idx, token.idx + len(token))
    if run and run[-1].pos_ != "ADJ":
        yield _chunk(run)


def _without_adjectives(doc: Doc, noun: Noun) -> str:
    """The noun of a phrase, which is what decides whether it is left out."""
    return _chunk([token for token in doc.char_span(noun.start, noun.end) if token.pos_ != "ADJ"]).noun


def _chunk(run: list[Any]) -> Noun:
    words = [token.lower_ for token in run[:-1]] + [run[-1].lemma_.lower()]
    return Noun(" ".join(words), run[0].idx, run[-1].idx + len(run[-1]))


def rejection_reason(noun: str, stop_nouns: frozenset[str]) -> str | None:
    """Return why a noun is left out: "not_a_word" (one letter, digits, signs) or "stop_noun"; None if it is kept."""
    parts = noun.replace("-", " ").replace("'", " ").split()
    if len(noun) < 2 or not parts or not all(part.isalpha() for part in parts):
        return "not_a_word"
    return "stop_noun" if noun in stop_nouns else None


@dataclass(frozen=True)
class _NounsTaskFactory:
    index: Path
    key: str
    options: NounsOptions
    stop_nouns: frozenset[str]

    def __call__(self, device: str) -> Task:  # noqa: ARG002 - spaCy runs on the CPU
        tagger = load_tagger(self.options.model)
        gc.collect()
        gc.freeze()  # the pipeline lives as long as the worker; without this the collector walks it again and again

        def task(unit: str, folder: Path) -> Counts:
            table = tables.read_part(self.index / f"{unit}.parquet", "index", ["image_id", "captions", "problem"])
            images = [row for row in table.to_pylist() if row["problem"] is None]
            rows, failures, counts = nouns_of_images(
                tagger, images, self.options.unit, self.options.captions_per_image, self.stop_nouns
            )
            tables.write_part(folder / f"{unit}.parquet", "nouns", rows, self.key)
            write_failures(folder, unit, failures, self.key)
            return counts

        return task


def nouns_of_images(
    tagger: Language,
    images: Iterable[Row],
    unit: NounUnit,
    captions_per_image: CaptionsPerImage,
    stop_nouns: frozenset[str],
) -> tuple[list[Row], list[Row], Counts]:
    """Extract the nouns of several images, whose captions spaCy tags in batches.

    Args:
        tagger: the spaCy pipeline, see `load_tagger`.
        images: rows of the table `index`.
        unit: see `nouns_of`; of a phrase, the noun without its adjectives decides whether it is left out.
        captions_per_image: 1 (the lowest caption id) or "all".
        stop_nouns: the nouns to leave out.

    Returns:
        rows of the table `nouns`; rows of the table `failures` for captions that are dropped; and counts: captions,
        nouns, captions in capitals, and dropped captions and nouns by reason.
    """
    counts: Counter[str] = Counter(captions=0, nouns=0)
    failures: list[Row] = []
    texts = []
    for image in images:
        captions = image["captions"] if captions_per_image == "all" else image["captions"][:1]
        if not captions:
            failures.append(failure(image["image_id"], "image", BadItem("no_caption", "the image has no caption")))
        for caption in captions:
            try:
                text = _text_to_tag(caption["text"], tagger)
            except BadItem as problem:
                failures.append(failure(image["image_id"], f"caption {caption['id']}", problem))
                continue
            counts["captions_in_capitals"] += text != caption["text"]
            texts.append((text, (image["image_id"], caption["id"])))
    rows: dict[tuple[int, str], Row] = {}
    for doc, (image_id, caption_id) in tagger.pipe(texts, as_tuples=True, batch_size=CAPTIONS_PER_BATCH):
        counts["captions"] += 1
        usable = 0
        for found in nouns_of(doc, unit):
            noun, start, end = found
            kernel = _without_adjectives(doc, found) if unit == "phrase" else noun
            reason = rejection_reason(kernel, stop_nouns) or ("repeated" if (image_id, noun) in rows else None)
            usable += reason in (None, "repeated")
            if reason:
                counts[f"dropped.{reason}"] += 1
                continue
            row = {"image_id": image_id, "noun": noun, "caption_id": caption_id, "start": start, "end": end}
            rows[image_id, noun] = row
        if not usable:
            no_noun = BadItem("caption_without_noun", f"no noun to keep is found in {doc.text[:80]!r}")
            failures.append(failure(image_id, f"caption {caption_id}", no_noun))
    counts.update(f"dropped.{row['reason']}" for row in failures)
    counts["nouns"] = len(rows)
    return list(rows.values()), failures, {name: n for name, n in counts.items() if n or name in ("captions", "nouns")}


def _text_to_tag(text: str, tagger: Language) -> str:
    """The text of a caption that is given to the tagger; it has as many characters as the caption.

    Raises:
        BadItem: the caption is empty or too long.
    """
    if not text.strip():
        raise BadItem("empty_caption", "the caption has no text")
    limit = min(MAX_CAPTION, tagger.max_length)
    if len(text) > limit:
        raise BadItem("long_caption", f"the caption has {len(text):,} characters; at most {limit:,} are read")
    return text if tagger.lang in NOUNS_IN_CAPITALS else sentence_case(text)
