"""Segmentations of an image by several models, answered again and again with other words, weights and thresholds.

An answer takes four steps, and each is done once for what it depends on:

    the proposal network      image
    CLIP on regions           image, model, mask (equal masks of several thresholds are one)
    CLIP on words             words; model, if it has learned something about texts
    ensemble, semantic map    all of them and the weight; milliseconds, so that a slider can ask for it

Shapes: Q proposals, V valid ones among them, K classes, D joint width, H, W image.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ovseg.core import hashing, masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import ImageArray, decode_image, read_header
from ovseg.proposals.network import NetworkOutput
from ovseg.segmentation.class_names import Vocabulary, split_names
from ovseg.segmentation.class_probs import ClassProbs
from ovseg.segmentation.segmenter import Segmentation, Segmenter

MAX_IMAGES, MAX_VOCABULARIES = 8, 32  # that are kept
MAX_MEGAPIXELS = 24
MAX_CLASSES = 500

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Question:
    """What a user asks of an image.

    Attributes:
        classes: the names of each class, the shown one first.
        weight: the weight of CLIP in the ensemble, in [0, 1].
        threshold: mask probability above which a pixel belongs to a proposal, in (0, 1).
        others: whether there is one more class for the rest.
    """

    classes: tuple[tuple[str, ...], ...]
    weight: float
    threshold: float
    others: bool


@dataclass(frozen=True)
class Answer:
    """The segmentation of an image by one model, and what it comes from.

    Attributes:
        segmentation: classes, labels, scores.
        probs: the class probabilities of Q proposals by both classifiers.
    """

    segmentation: Segmentation
    probs: ClassProbs


@dataclass(frozen=True)
class Region:
    """A proposal and its most probable words.

    Attributes:
        area: its fraction of the image, in [0, 1].
        rows: name, score of the ensemble, of CLIP and of the proposal network, each in [0, 1]; best first. CLIP's is None for
            a proposal without a pixel above the threshold.
    """

    area: float
    rows: tuple[tuple[str, float, float | None, float], ...]


@dataclass
class _Analysis:
    """What is known of an image: the prediction of the proposal network, and region embeddings by model and mask."""

    pixels: ImageArray
    output: NetworkOutput
    masks: dict[float, list[bytes | None]] = field(default_factory=dict)
    embeddings: dict[str, dict[bytes, Tensor]] = field(default_factory=dict)


class Answers:
    """Answers of several segmenters that share a proposal network.

    Args:
        segmenters: the segmenters by the name of their CLIP, at least one.
    """

    def __init__(self, segmenters: Mapping[str, Segmenter]) -> None:
        self.segmenters = dict(segmenters)
        self._first = next(iter(self.segmenters.values()))
        self._images: OrderedDict[str, _Analysis] = OrderedDict()
        self._vocabularies: OrderedDict[tuple[str, Question], Vocabulary] = OrderedDict()

    def answer(self, image: bytes, question: Question) -> dict[str, Answer]:
        """Segment an image with each model.

        Args:
            image: the image file.
            question: the classes and settings.

        Raises:
            OvsegError: the image cannot be read or is too large, or the names cannot be used.
        """
        if len(question.classes) > MAX_CLASSES:
            raise OvsegError(f"{len(question.classes)} classes are more than the {MAX_CLASSES} that this page takes")
        analysis = self._analysis(image)
        return {name: self._answer(name, analysis, question) for name in self.segmenters}

    def prepare(self, image: bytes, thresholds: Iterable[float], seconds: float) -> list[float]:
        """Embed the regions of further thresholds, so that `answer` runs no image tower for them.

        Args:
            image: the image file.
            thresholds: the thresholds, in the order in which they are wanted.
            seconds: when this time is over, no further threshold is begun.

        Returns:
            the thresholds that are ready.
        """
        analysis, end, ready = self._analysis(image), time.monotonic() + seconds, []
        for threshold in thresholds:
            if time.monotonic() > end:
                break
            for name in self.segmenters:
                self._embeddings(name, analysis, threshold)
            ready.append(threshold)
        return ready

    def pixels(self, image: bytes) -> ImageArray:
        """Return the pixels of an image, uint8 RGB `[H, W, 3]`; see `answer` for the errors."""
        return self._analysis(image).pixels

    def region_at(self, image: bytes, question: Question, y: int, x: int, number: int = 5) -> dict[str, Region]:
        """Describe the region that gives a pixel its class, for each model.

        Args:
            image: the image file.
            question: the classes and settings.
            y, x: row and column of the pixel; positions outside of the image mean its border.
            number: the number of words.
        """
        analysis, regions = self._analysis(image), {}
        height, width = analysis.pixels.shape[:2]
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        for name, answer in self.answer(image, question).items():
            scores = torch.from_numpy(answer.segmentation.proposal_scores)
            label = int(answer.segmentation.labels[y, x])
            q = self.segmenters[name].proposal_at(analysis.pixels, analysis.output, scores, label, y, x)
            regions[name] = _describe(answer, q, number)
        return regions

    def _analysis(self, image: bytes) -> _Analysis:
        return _kept(self._images, hashing.sha256_bytes(image), MAX_IMAGES, lambda: self._analyze(image))

    def _analyze(self, image: bytes) -> _Analysis:
        try:
            header = read_header(image)
            if (megapixels := header.width * header.height / 1e6) > MAX_MEGAPIXELS:
                raise OvsegError(
                    f"this image has {megapixels:.0f} megapixels, more than the {MAX_MEGAPIXELS} that this page takes; make it "
                    "smaller, or use `ovseg segment`"
                )
            pixels = decode_image(image)
        except BadItem as problem:
            raise OvsegError(f"this image cannot be read ({problem.reason}): {problem.detail}") from None
        return _Analysis(pixels, self._first.network.predict(pixels))

    def _vocabulary(self, name: str, question: Question) -> Vocabulary:
        segmenter = self.segmenters[name]
        owner = name if segmenter.clip.has_learned_texts else ""
        key = (owner, Question(question.classes, 0.0, 0.0, question.others))
        make = lambda: segmenter.vocabulary(question.classes, question.others)  # noqa: E731
        return _kept(self._vocabularies, key, MAX_VOCABULARIES, make)

    def _embeddings(self, name: str, analysis: _Analysis, threshold: float) -> tuple[list[bytes | None], Tensor]:
        """The masks of Q proposals, and what `RegionEncoder.embed` makes of them."""
        segmenter = self.segmenters[name]
        if threshold not in analysis.masks:
            analysis.masks[threshold] = segmenter.binarize(analysis.pixels, analysis.output, threshold)
        rles = analysis.masks[threshold]
        known = analysis.embeddings.setdefault(name, {})
        missing = [rle for rle in dict.fromkeys(rles) if rle is not None and rle not in known]
        if missing:
            embedded = segmenter.embed_regions(segmenter.crop_regions(analysis.pixels, missing))
            known.update(zip(filter(None, segmenter.encoder.rows(missing)), embedded, strict=True))
        rows = [known[rle] for rle in segmenter.encoder.rows(rles) if rle is not None]
        return rles, torch.stack(rows) if rows else torch.zeros(0, segmenter.clip.width)

    def _answer(self, name: str, analysis: _Analysis, question: Question) -> Answer:
        segmenter, pixels, output = self.segmenters[name], analysis.pixels, analysis.output
        vocabulary = self._vocabulary(name, question)
        rles, embeddings = self._embeddings(name, analysis, question.threshold)
        valid = torch.tensor([rle is not None for rle in rles], dtype=torch.bool)
        probs = segmenter.class_probs(output, valid, embeddings, vocabulary)
        scores = segmenter.ensemble(probs, question.weight)
        labels, pixel_scores = segmenter.semantic_map(pixels, output, scores)
        height, width = pixels.shape[:2]
        areas = np.array([0 if rle is None else masks.area(rle, height, width) for rle in rles], np.int64)
        return Answer(Segmentation(vocabulary.names, labels, pixel_scores, scores.numpy(), areas), probs)


def _describe(answer: Answer, q: int, number: int) -> Region:
    """The most probable words of proposal `q`."""
    found, probs = answer.segmentation, answer.probs
    order = np.argsort(-found.proposal_scores[q], kind="stable")[:number].tolist()
    rows = tuple(
        (
            found.names[k],
            float(found.proposal_scores[q, k]),
            float(probs.clip[q, k]) if probs.valid[q] else None,
            float(probs.network[q, k]),
        )
        for k in order
    )
    return Region(int(found.areas[q]) / found.labels.size, rows)


def _kept(cache: OrderedDict[K, V], key: K, size: int, make: Callable[[], V]) -> V:
    """The value of a key, made if it is not kept; the least recently used one is dropped."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > size:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def read_question(words: str, weight: float, threshold: float, others: bool) -> Question:
    """Read what a user typed: classes separated by commas or lines, with "|" between the names of one class.

    Raises:
        OvsegError: no class is named.
    """
    parts: Sequence[str] = [part for part in words.replace("\n", ",").split(",") if part.strip()]
    if not parts:
        raise OvsegError("no words are given; type for example: cat, sofa | couch, grass")
    classes = tuple(tuple(names) for names in split_names(parts))
    return Question(classes, float(weight), float(threshold), bool(others))
