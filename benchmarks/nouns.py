"""Speed of noun extraction compared with `for caption: nlp(caption)` and the full pipeline.

    python -m benchmarks nouns        about 1 minute on two cores

2,000 real captions (COCO val2017) with a real English tagger, in one process; see `benchmarks/inputs.py` for the data that is
used if they are missing. Both variants call the function of the step, one with the tagger and its batches, the other with the
full pipeline, caption by caption. The nouns must be the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks import inputs
from benchmarks.results import Options, Result, Target, Variant, interleave, medians
from ovseg.mining.nouns import CAPTIONS_PER_BATCH, nouns_of_images, read_stop_list
from ovseg.mining.tagger import load_tagger

CAPTIONS, REPEATS = 2000, 5
OURS, PLAIN = "tagger, batches", "full pipeline, one by one"

Rows = list[dict[str, Any]]


class OneByOne:
    """A spaCy pipeline that is called for each caption separately."""

    def __init__(self, nlp: Any) -> None:
        self.nlp, self.lang, self.max_length = nlp, nlp.lang, nlp.max_length

    def pipe(self, texts: Iterable[tuple[str, Any]], as_tuples: bool, batch_size: int) -> Iterator[tuple[Any, Any]]:  # noqa: ARG002
        return ((self.nlp(text), context) for text, context in texts)


def run(options: Options) -> Result:
    import spacy

    texts, source = inputs.captions(50 if options.smoke else CAPTIONS)
    model = inputs.tagger()
    full = spacy.load(model)
    images: Rows = [{"image_id": i, "captions": [{"id": i, "text": text}]} for i, text in enumerate(texts)]
    nouns: dict[str, Rows] = {}
    pipelines = {OURS: load_tagger(model), PLAIN: OneByOne(full)}
    variants = {name: _variant(name, nlp, images, nouns) for name, nlp in pipelines.items()}
    for variant in variants.values():
        variant(0)  # fills the caches of the vocabulary for both
    measurements = interleave(variants, 1 if options.smoke else REPEATS)
    assert nouns[OURS] == nouns[PLAIN], "the two variants give different nouns"
    rates = medians(measurements)
    ratio = rates[OURS] / rates[PLAIN]
    return Result(
        setup={
            "captions": len(texts),
            "of": source,
            "pipeline": f"{full.meta['lang']}_{full.meta['name']}",
            "components": " ".join(full.pipe_names),
            "batch": CAPTIONS_PER_BATCH,
            "nouns (the same)": len(nouns[OURS]),
        },
        rows=[{"variant": name, "captions/s": rates[name], "ratio": rates[name] / rates[PLAIN]} for name in variants],
        targets=[Target("ours / one by one", ratio, 3.0)],
        measurements=measurements,
    )


def _variant(name: str, nlp: Any, images: Rows, nouns: dict[str, Rows]) -> Variant:
    stop = read_stop_list(None)

    def variant(_: int) -> float:
        start = time.perf_counter()
        nouns[name], _failures, counts = nouns_of_images(nlp, images, "chunk", "all", stop)
        return counts["captions"] / (time.perf_counter() - start)

    return variant
