"""Nouns: the step's own extraction against `for caption: nlp(caption)` with the full pipeline.

    python -m benchmarks nouns        about 1 minute on two cores

2,000 real captions (COCO val2017) with a real English tagger, in one process; see `benchmarks/inputs.py` for what is
taken where they are missing. Both ways go through the step's function: one gives it the tagger with its batches, the
other the whole pipeline, caption by caption. The nouns must be the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks import inputs
from benchmarks.results import Options, Result, Target, interleave, medians
from ovseg.mining.nouns import CAPTIONS_PER_BATCH, load_tagger, nouns_of_images, read_stop_list

CAPTIONS, REPEATS = 2000, 5
OURS, PLAIN = "tagger, batches", "full pipeline, one by one"

Rows = list[dict[str, Any]]


class OneByOne:
    """A spaCy pipeline that is called for each caption by itself."""

    def __init__(self, nlp: Any) -> None:
        self.nlp = nlp

    def pipe(self, texts: Iterable[tuple[str, Any]], as_tuples: bool, batch_size: int) -> Iterator[tuple[Any, Any]]:  # noqa: ARG002
        return ((self.nlp(text), context) for text, context in texts)


def run(options: Options) -> Result:
    import spacy

    texts, source = inputs.captions(50 if options.smoke else CAPTIONS)
    model = inputs.tagger()
    full = spacy.load(model)
    images: Rows = [{"image_id": i, "captions": [{"id": i, "text": text}]} for i, text in enumerate(texts)]
    found: dict[str, Rows] = {}
    pipelines = {OURS: load_tagger(model), PLAIN: OneByOne(full)}
    ways = {name: _way(name, nlp, images, found) for name, nlp in pipelines.items()}
    for way in ways.values():
        way(0)  # fills the vocabulary's caches of words for both
    rates = interleave(ways, 1 if options.smoke else REPEATS)
    assert found[OURS] == found[PLAIN], "the two ways give different nouns"
    middle = medians(rates)
    ratio = middle[OURS] / middle[PLAIN]
    return Result(
        setup={
            "captions": len(texts),
            "of": source,
            "pipeline": f"{full.meta['lang']}_{full.meta['name']}",
            "components": " ".join(full.pipe_names),
            "batch": CAPTIONS_PER_BATCH,
            "nouns (the same)": len(found[OURS]),
        },
        rows=[{"way": name, "captions/s": middle[name], "ratio": middle[name] / middle[PLAIN]} for name in ways],
        targets=[Target("ours / one by one", ratio, 3.0)],
        turns=rates,
    )


def _way(name: str, nlp: Any, images: Rows, found: dict[str, Rows]) -> Callable[[int], float]:
    stop = read_stop_list(None)

    def way(_: int) -> float:
        begun = time.perf_counter()
        found[name], counts = nouns_of_images(nlp, images, "chunk", "all", stop)
        return counts["captions"] / (time.perf_counter() - begun)

    return way
