"""Running a benchmark: one pass over its images gives every model, mask threshold and classifier at once.

Each image's confusion is kept in integers, one row of the table `segmentations` for each way of segmenting it; metrics are
computed from that table. Work goes unit by unit, so a killed run continues and several devices share it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.clip.adapted import load_adapted, made_with
from ovseg.clip.load import Precision
from ovseg.core import hashing, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task
from ovseg.evaluation.confusion import confusion
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.proposals.network_folder import check_text_tower, identify_network
from ovseg.segmentation.names import Vocabulary
from ovseg.segmentation.regions import threads
from ovseg.segmentation.segmenter import Segmenter

ITEMS_PER_UNIT = 16
EvalSettings = Mapping[str, Mapping[float, Mapping[str, float]]]
"""How to segment: model -> mask threshold -> classifier -> weight of CLIP."""
PURE = {"clip": 1.0, "proposals": 0.0}
"""One word alone, whatever the options of ensembles; the segmenter's needs no CLIP and is done once for all models."""
Row = dict[str, Any]


def three_classifiers(threshold: float, weight: float) -> dict[float, dict[str, float]]:
    """CLIP alone, the proposal network alone, and their ensemble."""
    return {threshold: {**PURE, "ensemble": weight}}


def evaluate(
    benchmark: Path,
    network: Path,
    clips: Mapping[str, Path],
    out: Path,
    runtime: Runtime,
    *,
    ways: EvalSettings,
    oracles: bool = True,
    limit: int | None = None,
    precision: Precision = "fp32",
    **options: Any,
) -> dict[str, int]:
    """Write the table `segmentations` of a benchmark.

    Args:
        benchmark: its folder.
        network: folder of the proposal network.
        clips: folders of the CLIPs by name; one input size and one text tower.
        out: folder of the table.
        runtime: devices, workers, batch size, scratch folder.
        ways: see `EvalSettings`; a model that is not there is shown true masks alone.
        oracles: also name true masks by CLIP, and proposals by the truth.
        limit: only the first that many items.
        precision: of CLIP.
        options: attributes of `Segmenter`.

    Returns:
        counts: images, and what was dropped by reason.

    Raises:
        OvsegError: benchmark or models cannot be used.
    """
    opened = read_benchmark(benchmark)
    number = len(opened.items) if limit is None else min(limit, len(opened.items))
    key = step_key(
        "evaluate",
        __name__,
        benchmark=hashing.sha256_path(benchmark),
        images=_images(opened, number),
        network=tables.content_hash(network),
        clips={name: tables.content_hash(clip) for name, clip in clips.items()},
        ways=ways,
        oracles=oracles,
        number=number,
        precision=precision,
        options=options,
        schema=tables.SCHEMA_VERSION,
    )
    units = [f"{i:05d}" for i in range(-(-number // ITEMS_PER_UNIT))]
    opener = partial(
        _task,
        benchmark,
        network,
        dict(clips),
        key.fingerprint,
        ways,
        oracles,
        number,
        precision,
        runtime.workers,
        runtime.batch_size,
        options,
    )
    return run_step(key, units, opener, out, runtime, uses_model=True)


def _images(benchmark: Benchmark, number: int) -> str:
    """What changes when an image does: their sizes, without reading 5,000 of them."""
    found = []
    for image, _ in benchmark.items[:number]:
        path = benchmark.images / image
        found.append([image, path.stat().st_size if path.is_file() else None])
    return hashing.fingerprint(found=found)


def _task(
    folder: Path,
    network: Path,
    clips: dict[str, Path],
    key: str,
    ways: EvalSettings,
    oracles: bool,
    number: int,
    precision: Precision,
    workers: int,
    batch_size: int,
    options: dict[str, Any],
    device: str,
) -> Task:
    benchmark = read_benchmark(folder)
    models = _models(network, clips, precision, workers, batch_size, options, device)
    first = next(iter(models.values()))
    words = first.vocabulary(benchmark.names)
    seen = None if benchmark.seen is None else torch.tensor(benchmark.seen)
    made_of = {f"ovseg.clip.{name}": made_with(f"local-dir:{path}", None)["ovseg.clip"] for name, path in clips.items()}
    made_of["ovseg.network"] = json.dumps(identify_network(network), sort_keys=True)

    def task(unit: str, scratch: Path) -> Counts:
        rows: list[Row] = []
        failures: list[Row] = []
        counts: Counter[str] = Counter(images=0)
        begin = int(unit) * ITEMS_PER_UNIT
        for item in range(begin, min(begin + ITEMS_PER_UNIT, number)):
            try:
                pixels, labels = benchmark.read(item)
            except BadItem as problem:
                failures.append(failure(item, benchmark.items[item][1], problem))
                counts[f"dropped.{problem.reason}"] += 1
                continue
            for way, guess, more in _maps(models, pixels, labels, words, seen, benchmark, ways, oracles):
                cells, found = confusion(labels, guess, len(words.names), benchmark.ignore)
                rows.append({"item": item, **way, "cells": cells, "pixels": found, **more})
            counts["images"] += 1
        tables.write_part(scratch / f"{unit}.parquet", "segmentations", rows, key, made_of)
        write_failures(scratch, unit, failures, key)
        return counts

    return task


def _models(
    network: Path,
    clips: dict[str, Path],
    precision: Precision,
    workers: int,
    batch_size: int,
    options: dict[str, Any],
    device: str,
) -> dict[str, Segmenter]:
    """One segmenter for each CLIP; all share the proposal network."""
    found: dict[str, Segmenter] = {}
    for name, path in clips.items():
        if not found:
            found[name] = Segmenter.load(
                network, path, device, precision, batch_size=batch_size, pool=threads(workers), **options
            )
            continue
        one = next(iter(found.values()))
        clip = load_adapted(path, device, precision)
        check_text_tower(one.network, clip, network, path)
        if clip.size != one.clip.size:
            raise OvsegError(
                f"{path} takes images of {clip.size} pixels, {next(iter(clips.values()))} of {one.clip.size}: models that "
                "are compared in one run need one size; take one of them out of evaluate.models"
            )
        found[name] = replace(one, clip=clip)
    return found


Map = tuple[Row, NDArray[np.uint16], Row]
"""Model, threshold and classifier; the map; true and guessed classes of true masks."""
NONE: Row = {"labels": None, "guesses": None}


def _maps(
    models: Mapping[str, Segmenter],
    pixels: ImageArray,
    labels: NDArray[np.uint16],
    words: Vocabulary,
    seen: torch.Tensor | None,
    benchmark: Benchmark,
    ways: EvalSettings,
    oracles: bool,
) -> Iterator[Map]:
    """One image in every way. What the network sees is shared by all, what CLIP sees by all of one threshold."""
    first = next(iter(models.values()))
    queries = first.network.predict(pixels)
    done: set[str] = set()
    for threshold in sorted({threshold for some in ways.values() for threshold in some}):
        regions = first.crop_regions(pixels, first.binarize(pixels, queries, threshold))
        for name, some in ways.items():
            if threshold not in some:
                continue
            named = models[name].classify(queries, regions, words)
            for classifier, weight in some[threshold].items():
                alone = classifier == "proposals"
                if alone and classifier in done:
                    continue
                way = {"model": "" if alone else name, "threshold": None if alone else threshold}
                known = None if classifier in PURE else seen
                guess, _ = models[name].semantic_map(
                    pixels, queries, models[name].ensemble(named, weight, known), known
                )
                yield {**way, "classifier": classifier}, guess, NONE
                done.add(classifier)
        if oracles and "oracle_labels" not in done:
            scores = oracle_scores(regions.rles, labels, benchmark.ignore, len(words.names))
            guess, _ = first.semantic_map(pixels, queries, scores)
            yield {"model": "", "threshold": threshold, "classifier": "oracle_labels"}, guess, NONE
            done.add("oracle_labels")
    if oracles:
        yield from _by_gt_masks(models, pixels, labels, words, benchmark)


def _by_gt_masks(
    models: Mapping[str, Segmenter],
    pixels: ImageArray,
    labels: NDArray[np.uint16],
    words: Vocabulary,
    benchmark: Benchmark,
) -> Iterator[Map]:
    classes, rles = gt_masks(labels, benchmark.ignore)
    regions = next(iter(models.values())).crop_regions(pixels, rles)
    for name, model in models.items():
        guesses = model.by_clip(regions, words).argmax(1).tolist()
        guess = relabel(labels, classes, guesses, len(words.names))
        way = {"model": name, "threshold": None, "classifier": "oracle_masks"}
        yield way, guess, {"labels": classes, "guesses": guesses}
