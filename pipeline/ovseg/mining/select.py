"""Step `select`: which candidates become pairs. Seconds, so that a sweep of thresholds never scores again.

The paper's rule (3.2) is the default: every noun takes its best proposal, with no threshold; a mask may serve several
nouns. Thresholds, one-to-one matching, a cap for each noun and a share of annotated pairs are parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task

Rule = Literal["best", "one_to_one"]
Row = dict[str, Any]


def select_pairs(
    candidates: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    *,
    rule: Rule = "best",
    min_similarity: float | None = None,
    min_margin: float | None = None,
    min_area: int = 1,
    max_per_noun: int | None = None,
    annotated_fraction: float = 0.0,
    seed: int = 0,
) -> dict[str, int]:
    """Write the table `pairs`, in the order that the shards will have: parts shuffled, images shuffled within a part.

    Args:
        candidates, proposals: folders of those tables.
        out: folder of the table `pairs`.
        rule: "best" (the paper's) or "one_to_one" (within an image, by the Hungarian method).
        min_similarity: least cosine, in [-1, 1]; None for no threshold, as in the paper.
        min_margin: least distance to the next proposal; an image's only proposal passes.
        min_area: least area of the mask in pixels.
        max_per_noun: keep only the most similar that many pairs of a noun.
        annotated_fraction: share of annotated masks with their class names among all pairs, in [0, 1]; 1 mines nothing.
        seed: of the order and of the choice of annotated masks.

    Returns:
        counts: pairs, annotated pairs, and nouns dropped by reason.

    Raises:
        OvsegError: annotated pairs are wanted and the proposals have none; no pair is left.
    """
    key = step_key(
        "select",
        __name__,
        candidates=tables.fingerprint(candidates, "candidates"),
        rule=rule,
        min_similarity=min_similarity,
        min_margin=min_margin,
        min_area=min_area,
        max_per_noun=max_per_noun,
        annotated_fraction=annotated_fraction,
        seed=seed,
        proposals=tables.fingerprint(proposals, "proposals"),
        schema=tables.SCHEMA_VERSION,
    )
    limits = partial(
        _mined,
        candidates,
        rule=rule,
        min_similarity=min_similarity,
        min_margin=min_margin,
        min_area=min_area,
        max_per_noun=max_per_noun,
    )
    opener = partial(_task, limits, proposals, annotated_fraction, seed, key.fingerprint)
    return run_step(key, ["00000"], opener, out, runtime)


def one_to_one(candidates: list[Row]) -> list[Row]:
    """Match nouns and proposals of one image so that no proposal serves twice.

    As many nouns as can be are matched, and of those matchings the one with the greatest sum of similarities is taken.

    Args:
        candidates: rows of the table `candidates` of one image; pairs beyond its `top_k` cannot be matched.

    Returns:
        at most one row for each noun.
    """
    from scipy.optimize import linear_sum_assignment

    nouns = sorted({row["noun"] for row in candidates})
    numbers = sorted({row["proposal"] for row in candidates})
    cost = np.full(
        (len(nouns), len(numbers)), 2.0 * len(nouns) + 1
    )  # no candidate: above all cosine distances together
    place = {(row["noun"], row["proposal"]): row for row in candidates}
    for (noun, proposal), row in place.items():
        cost[nouns.index(noun), numbers.index(proposal)] = 1 - row["similarity"]
    matched = ((nouns[i], numbers[j]) for i, j in zip(*linear_sum_assignment(cost), strict=True))
    return [place[pair] for pair in matched if pair in place]


def rejection_reason(row: Row, min_similarity: float | None, min_margin: float | None, min_area: int) -> str | None:
    """Why a candidate is left out: "low_similarity", "low_margin", "small_area", or None if it is kept."""
    if min_similarity is not None and row["similarity"] < min_similarity:
        return "low_similarity"
    if min_margin is not None and row["margin"] is not None and row["margin"] < min_margin:
        return "low_margin"
    return "small_area" if row["area"] < min_area else None


def cap(pairs: list[Row], most: int) -> list[Row]:
    """At most `most` pairs of each noun, the most similar ones (earlier ones where equal), in the order given."""
    best = sorted(range(len(pairs)), key=lambda i: (-pairs[i]["similarity"], i))
    seen: Counter[str] = Counter()
    kept = set()
    for i in best:
        seen[pairs[i]["noun"]] += 1
        if seen[pairs[i]["noun"]] <= most:
            kept.add(i)
    return [pair for i, pair in enumerate(pairs) if i in kept]


def annotated_number(mined: int, annotated: int, share: float) -> int:
    """How many of `annotated` pairs make up `share` of all, beside `mined` ones; all there are, if that is too few."""
    return annotated if share == 1 else min(annotated, round(mined * share / (1 - share)))


def _mined(
    candidates: Path,
    *,
    rule: Rule,
    min_similarity: float | None,
    min_margin: float | None,
    min_area: int,
    max_per_noun: int | None,
) -> tuple[list[Row], Counter[str]]:
    counts: Counter[str] = Counter()
    pairs = []
    for part, rows in _by_image(candidates):
        if rule == "best":
            chosen = [row for row in rows if row["rank"] == 0]
        else:
            chosen = one_to_one(rows)
            counts["dropped.no_free_proposal"] += len({row["noun"] for row in rows}) - len(chosen)
        for row in chosen:
            reason = rejection_reason(row, min_similarity, min_margin, min_area)
            if reason:
                counts[f"dropped.{reason}"] += 1
            else:
                pairs.append({"part": part, **{name: value for name, value in row.items() if name != "rank"}})
    if max_per_noun is not None:
        kept = cap(pairs, max_per_noun)
        counts["dropped.over_cap"] = len(pairs) - len(kept)
        pairs = kept
    return pairs, counts


def _by_image(candidates: Path) -> Iterator[tuple[int, list[Row]]]:
    for path in tables.parts(candidates):
        rows = tables.read_part(path, "candidates").to_pylist()
        for _, group in groupby(rows, key=lambda row: row["image_id"]):
            yield int(path.stem), list(group)


def _annotated(proposals: Path) -> list[Row]:
    """Every annotated mask as a pair of itself and its class name; it has no caption and no similarity."""
    columns = ["image_id", "proposal", "area", "source", "label"]
    return [
        {"part": int(path.stem), "noun": row.pop("label").lower(), **row}
        for path in tables.parts(proposals)
        for row in tables.read_part(path, "proposals", columns).to_pylist()
        if row["label"] is not None
    ]


def _task(
    mine: partial[tuple[list[Row], Counter[str]]], proposals: Path, share: float, seed: int, key: str, _device: str
) -> Task:
    def task(unit: str, folder: Path) -> Counts:
        pairs, counts = mine() if share < 1 else ([], Counter())
        if share > 0:
            pool = _annotated(proposals)
            if not pool:
                raise OvsegError(
                    f"select.annotated_fraction={share} asks for annotated masks, but {proposals} has none: set "
                    "propose.annotations to a COCO file with categories"
                )
            number = annotated_number(len(pairs), len(pool), share)
            chosen = np.sort(np.random.default_rng(seed).permutation(len(pool))[:number])
            pairs += [pool[i] for i in chosen]
            counts["annotated_pairs"] = number
        if not pairs:
            raise OvsegError(f"no pair is left: {dict(counts)}. Lower the thresholds of section select")
        ordered = _shuffled(pairs, seed)
        tables.write_part(folder / f"{unit}.parquet", "pairs", [{"pair": i, **p} for i, p in enumerate(ordered)], key)
        return {"pairs": len(ordered), **{name: n for name, n in counts.items() if n}}

    return task


def _shuffled(pairs: list[Row], seed: int) -> list[Row]:
    """Parts in random order, and images within a part: mixed enough for training, and a shard reads few parts."""
    images = sorted({(pair["part"], pair["image_id"]) for pair in pairs})
    parts = sorted({part for part, _ in images})
    rng = np.random.default_rng(seed)
    part_place = dict(zip(parts, rng.permutation(len(parts)).tolist(), strict=True))
    image_place = dict(zip(images, rng.permutation(len(images)).tolist(), strict=True))
    return sorted(pairs, key=lambda p: (part_place[p["part"]], image_place[p["part"], p["image_id"]]))
