"""Step `nouns`: the nouns of each image's captions, with the place where they stand (paper 3.2).

The paper's parser is NLTK with no filter described; here it is spaCy with its lemmas. A compound is a maximal run of
nouns ("traffic light"), which needs tags alone: the parser and other components that are not needed stay off.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task, unit_names

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

NounUnit = Literal["token", "chunk"]
CaptionsPerImage = Literal[1, "all"]
NEEDED = frozenset(
    {
        "tok2vec",
        "transformer",
        "curated_transformer",
        "tagger",
        "morphologizer",
        "attribute_ruler",
        "lemmatizer",
        "trainable_lemmatizer",
    }
)
BATCH = 256  # captions that spaCy sees at once


class Noun(NamedTuple):
    """A noun of a caption: its lemma in lower case, and the character span that it was read from."""

    noun: str
    start: int
    end: int


def extract_nouns(
    index: Path,
    out: Path,
    runtime: Runtime,
    *,
    model: str,
    model_version: str | None = None,
    unit: NounUnit = "chunk",
    captions_per_image: CaptionsPerImage = 1,
    stop_list: Path | None = None,
) -> dict[str, int]:
    """Write the table `nouns`, one row an image x noun: the first mention is kept.

    Args:
        index: folder of the table `index`.
        out: folder of the table `nouns`.
        model: an installed spaCy pipeline ("en_core_web_sm") or a folder that holds one.
        model_version: the version that the pipeline must have; None accepts any.
        unit: "token" takes every noun by itself, "chunk" keeps compounds together.
        captions_per_image: 1 (the lowest caption id; the paper's default) or "all".
        stop_list: nouns that name nothing to be seen, one a line; None for the one that comes with ovseg.

    Returns:
        counts: captions read, nouns, and what was dropped by reason.

    Raises:
        OvsegError: if the pipeline is not installed or gives no tags and lemmas, or a file is missing.
    """
    stop = read_stop_list(stop_list)
    if model_version is not None:
        check_version(model, model_version)
    key = step_key(
        "nouns",
        __name__,
        index=tables.fingerprint(index, "index"),
        model=model_fingerprint(model),
        unit=unit,
        captions=captions_per_image,
        stop=sorted(stop),
        schema=tables.SCHEMA_VERSION,
    )
    opener = partial(_task, index, key.fingerprint, model, unit, captions_per_image, stop)
    return run_step(key, list(unit_names(index)), opener, out, runtime)


def read_stop_list(path: Path | None) -> frozenset[str]:
    """Nouns to leave out: one a line, `#` begins a remark.

    Raises:
        OvsegError: if the file is missing.
    """
    if path is None:
        text = resources.files(__package__).joinpath("stop_nouns.txt").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise OvsegError(f"the stop list {path} does not exist")
    lines = (line.split("#")[0].strip().lower() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def load_tagger(model: str) -> Language:
    """A spaCy pipeline with only the components that tags and lemmas need.

    Raises:
        OvsegError: if it is not installed or lacks tags or lemmas.
    """
    import spacy

    try:
        nlp = spacy.load(model)
    except OSError as error:
        raise OvsegError(
            f"the spaCy pipeline {model!r} cannot be loaded ({str(error).split('.')[0]}). "
            f"Install it with: python -m spacy download {model}   or give a folder that holds one"
        ) from None
    factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
    nlp.select_pipes(enable=[name for name, factory in factories.items() if factory in NEEDED])
    made = {attribute for name in nlp.pipe_names for attribute in nlp.get_pipe_meta(name).assigns}
    if "token.lemma" not in made or not made & {"token.pos", "token.tag", "token.morph"}:
        raise OvsegError(
            f"the spaCy pipeline {model!r} gives no {'lemmas' if 'token.lemma' not in made else 'tags'}; use "
            "one with a tagger and a lemmatizer, such as en_core_web_sm"
        )
    return nlp


def check_version(model: str, version: str) -> None:
    """Check that a spaCy pipeline has the expected version.

    Raises:
        OvsegError: the pipeline is not installed, or its version is another.
    """
    import spacy

    try:
        installed = spacy.load(model).meta["version"]
    except OSError:
        load_tagger(model)  # raises the error that says how to install it
        raise
    if installed != version:
        raise OvsegError(
            f"the spaCy pipeline {model!r} has version {installed}, but nouns.model_version is {version}; install that "
            f"version, or set nouns.model_version={installed}"
        )


def model_fingerprint(model: str) -> str:
    """What identifies a spaCy pipeline: its files, or its name and version if it is an installed package."""
    if Path(model).is_dir():
        return hashing.sha256_path(Path(model))
    import spacy

    try:
        return hashing.fingerprint(name=model, meta=json.dumps(spacy.load(model).meta, default=str, sort_keys=True))
    except OSError:
        load_tagger(model)  # says how to install it
        raise


def nouns_of(doc: Doc, unit: NounUnit) -> Iterator[Noun]:
    """The nouns of a tagged caption in order, before any filter."""
    run: list[Any] = []
    for token in doc:
        noun = token.pos_ in ("NOUN", "PROPN")
        joins = noun and unit == "chunk" and any(letter.isalpha() for letter in token.text)  # an emoji joins nothing
        if joins:
            run.append(token)
            continue
        if run:
            yield _chunk(run)
            run = []
        if noun:
            yield Noun(token.lemma_.lower(), token.idx, token.idx + len(token))
    if run:
        yield _chunk(run)


def _chunk(run: list[Any]) -> Noun:
    words = [token.lower_ for token in run[:-1]] + [run[-1].lemma_.lower()]
    return Noun(" ".join(words), run[0].idx, run[-1].idx + len(run[-1]))


def rejection_reason(noun: str, stop: frozenset[str]) -> str | None:
    """Why a noun is left out: "not_a_word" (one letter, digits, signs), "stop_noun", or None if it is kept."""
    parts = noun.replace("-", " ").replace("'", " ").split()
    if len(noun) < 2 or not parts or not all(part.isalpha() for part in parts):
        return "not_a_word"
    return "stop_noun" if noun in stop else None


def _task(
    index: Path, key: str, model: str, unit_kind: NounUnit, policy: CaptionsPerImage, stop: frozenset[str], _device: str
) -> Task:
    nlp = load_tagger(model)

    def task(unit: str, folder: Path) -> Counts:
        table = tables.read_part(index / f"{unit}.parquet", "index", ["image_id", "captions", "problem"])
        images = [row for row in table.to_pylist() if row["problem"] is None]
        rows, counts = _unit(nlp, images, unit_kind, policy, stop)
        tables.write_part(folder / f"{unit}.parquet", "nouns", rows, key)
        return counts

    return task


def _unit(
    nlp: Language, images: Iterable[dict[str, Any]], unit: NounUnit, policy: CaptionsPerImage, stop: frozenset[str]
) -> tuple[list[dict[str, Any]], Counts]:
    counts: Counter[str] = Counter(captions=0, nouns=0)
    texts = []
    for image in images:
        captions = image["captions"] if policy == "all" else image["captions"][:1]
        counts["dropped.no_caption"] += not captions
        for caption in captions:
            counts["dropped.empty_caption"] += not caption["text"].strip()
            if caption["text"].strip():
                texts.append((caption["text"], (image["image_id"], caption["id"])))
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for doc, (image_id, caption_id) in nlp.pipe(texts, as_tuples=True, batch_size=BATCH):
        counts["captions"] += 1
        kept = 0
        for noun, start, end in nouns_of(doc, unit):
            reason = rejection_reason(noun, stop) or ("repeated" if (image_id, noun) in rows else None)
            kept += reason in (None, "repeated")
            if reason:
                counts[f"dropped.{reason}"] += 1
                continue
            rows[image_id, noun] = {
                "image_id": image_id,
                "noun": noun,
                "caption_id": caption_id,
                "start": start,
                "end": end,
            }
        counts["dropped.caption_without_noun"] += not kept
    counts["nouns"] = len(rows)
    return list(rows.values()), {name: n for name, n in counts.items() if n or "." not in name}
