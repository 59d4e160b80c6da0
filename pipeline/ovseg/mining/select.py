"""Step `select`: chooses the candidates that become pairs. It takes seconds, and a threshold sweep does not rerun `score`.

The default is the paper's rule (3.2): every noun is paired with its best proposal, without a threshold, and a proposal may
have several nouns. Thresholds, one-to-one matching, filters (see `pair_filters`), a limit for each noun, a file of wrong
pairs, near-duplicates of benchmarks and a fraction of annotated pairs are options. They are applied to the chosen pair; a
rejected noun gets no other proposal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import SelectOptions
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import SINGLE_UNIT, Counts, Task
from ovseg.mining.pair_filters import FILTERS, PairTables
from ovseg.mining.wrong_pairs import WrongPair, read_wrong_pairs

Row = dict[str, Any]


def select_pairs(
    candidates: Path, proposals: Path, out: Path, runtime: Runtime, options: SelectOptions
) -> dict[str, int]:
    """Write the table `pairs`, in the order of the shards; see `_shuffled`.

    Args:
        candidates, proposals: folders of the tables of these names.
        out: folder of the table `pairs`.
        runtime: scratch folder.
        options: parameters of the step.

    Returns:
        counts: pairs, annotated pairs, and dropped nouns by reason.

    Raises:
        OvsegError: annotated pairs are wanted, but the proposals have none; the file of wrong pairs cannot be read; a filter
            needs a table that is not there; or no pair is left.
    """
    # Without a file the key is that of runs before there was the option.
    read = {} if options.exclude is None else {"excluded": hashing.sha256_path(options.exclude)}
    if options.second_candidates is not None:
        read["second"] = tables.fingerprint(options.second_candidates, "candidates")
    if options.near_duplicates is not None:
        read["near_duplicates"] = tables.fingerprint(options.near_duplicates, "near_duplicates")
    key = step_key(
        "select",
        __name__,
        candidates=tables.fingerprint(candidates, "candidates"),
        proposals=tables.fingerprint(proposals, "proposals"),
        options=options.model_dump(exclude={"exclude", "second_candidates", "near_duplicates"}),
        schema=tables.SCHEMA_VERSION,
        **read,
    )
    factory = _SelectTaskFactory(candidates, proposals, options, key.fingerprint)
    return run_step(key, [SINGLE_UNIT], factory, out, runtime, totals=(Total("pairs", chosen=True),))


def one_to_one(candidates: list[Row]) -> list[Row]:
    """Match the nouns and proposals of one image so that no proposal has two nouns.

    As many nouns as possible are matched, and among such matchings the one with the largest sum of similarities is taken.

    Args:
        candidates: rows of the table `candidates` of one image. Pairs beyond its `top_k` cannot be matched.

    Returns:
        at most one row for each noun.
    """
    from scipy.optimize import linear_sum_assignment

    nouns = sorted({row["noun"] for row in candidates})
    proposals = sorted({row["proposal"] for row in candidates})
    # A pair that is no candidate costs more than all others together, each of which costs 2 at most.
    cost = np.full((len(nouns), len(proposals)), 2.0 * len(nouns) + 1)
    by_pair = {(row["noun"], row["proposal"]): row for row in candidates}
    for (noun, proposal), row in by_pair.items():
        cost[nouns.index(noun), proposals.index(proposal)] = 1 - row["similarity"]
    matched = ((nouns[i], proposals[j]) for i, j in zip(*linear_sum_assignment(cost), strict=True))
    return [by_pair[pair] for pair in matched if pair in by_pair]


def rejection_reason(row: Row, min_similarity: float | None, min_margin: float | None, min_area: int) -> str | None:
    """Return why a chosen candidate is left out: "low_similarity", "low_margin" or "small_area"; None if it is kept.

    Args:
        row: row of the table `candidates`.
        min_similarity: smallest cosine similarity; None for no threshold.
        min_margin: smallest difference to the next proposal; a last-ranked proposal has no margin and passes. None for no
            threshold.
        min_area: smallest area of the mask in pixels.
    """
    if min_similarity is not None and _is_less(row["similarity"], min_similarity):
        return "low_similarity"
    if min_margin is not None and row["margin"] is not None and _is_less(row["margin"], min_margin):
        return "low_margin"
    return "small_area" if row["area"] < min_area else None


def _is_less(value: float, threshold: float) -> bool:
    """Compare as the table stores numbers: 0.26 in float32 is less than in float64, and must pass a threshold of 0.26."""
    return bool(np.float32(value) < np.float32(threshold))


def limit_per_noun(pairs: list[Row], max_per_noun: int) -> list[Row]:
    """Keep of each noun the `max_per_noun` pairs of the highest similarity (the first ones of equals), in the given order."""
    by_similarity = sorted(range(len(pairs)), key=lambda i: (-pairs[i]["similarity"], i))
    number_of: Counter[str] = Counter()
    kept = set()
    for i in by_similarity:
        number_of[pairs[i]["noun"]] += 1
        if number_of[pairs[i]["noun"]] <= max_per_noun:
            kept.add(i)
    return [pair for i, pair in enumerate(pairs) if i in kept]


def num_annotated_pairs(mined: int, annotated: int, fraction: float) -> int:
    """Return how many annotated pairs are needed beside the mined ones to be a fraction of all.

    Args:
        mined: number of mined pairs.
        annotated: number of annotated masks, the largest possible result.
        fraction: fraction of annotated pairs among all pairs, in [0, 1]; 1 takes all annotated masks.
    """
    return annotated if fraction == 1 else min(annotated, round(mined * fraction / (1 - fraction)))


@dataclass(frozen=True)
class _SelectTaskFactory:
    candidates: Path
    proposals: Path
    options: SelectOptions
    fingerprint: str

    def __call__(self, device: str) -> Task:  # noqa: ARG002 - the step runs no model
        options = self.options

        def task(unit: str, folder: Path) -> Counts:
            include_mined = options.annotated_fraction < 1
            pairs, counts = mined_pairs(self.candidates, self.proposals, options) if include_mined else ([], Counter())
            if options.annotated_fraction > 0:
                all_annotated = _annotated_pairs(self.proposals)
                if not all_annotated:
                    raise OvsegError(
                        f"select.annotated_fraction={options.annotated_fraction} needs annotated masks, and {self.proposals} "
                        "has none: set propose.annotations to a COCO file with categories"
                    )
                reasons = list(map(_left_out(options), all_annotated))
                counts.update(f"dropped.annotated_{reason}" for reason in reasons if reason)
                annotated = [pair for pair, reason in zip(all_annotated, reasons, strict=True) if not reason]
                number = num_annotated_pairs(len(pairs), len(annotated), options.annotated_fraction)
                chosen = np.sort(np.random.default_rng(options.seed).permutation(len(annotated))[:number])
                pairs += [annotated[i] for i in chosen]
                counts["annotated_pairs"] = number
            if not pairs:
                raise OvsegError(_explain_no_pairs(self.candidates, counts))
            rows = [{"pair": i, **pair} for i, pair in enumerate(_shuffled(pairs, options.seed))]
            tables.write_part(folder / f"{unit}.parquet", "pairs", rows, self.fingerprint)
            return {"pairs": len(rows), **{name: n for name, n in counts.items() if n}}

        return task


def mined_pairs(candidates: Path, proposals: Path, options: SelectOptions) -> tuple[list[Row], Counter[str]]:
    """Apply the rule, then the thresholds, the filters, and the limit for each noun, to all candidates.

    Args:
        candidates, proposals: folders of the tables of these names.
        options: parameters of the step; annotated pairs are not considered here.

    Returns:
        rows of the table `pairs` without their number, in the order of the candidates; and counts of dropped nouns by reason.
    """
    counts: Counter[str] = Counter()
    pairs = []
    is_left_out = _left_out(options)
    for part, rows in _candidates_by_image(candidates):
        if options.rule == "best":
            chosen = [row for row in rows if row["rank"] == 0]
        else:
            chosen = one_to_one(rows)
            counts["dropped.no_free_proposal"] += len({row["noun"] for row in rows}) - len(chosen)
        for row in chosen:
            reason = is_left_out(row) or rejection_reason(
                row, options.min_similarity, options.min_margin, options.min_area
            )
            if reason:
                counts[f"dropped.{reason}"] += 1
            else:
                pairs.append({"part": part, **{name: value for name, value in row.items() if name != "rank"}})
    for reason, find in FILTERS.items():
        dropped = find(pairs, PairTables(candidates, proposals), options) if pairs else None
        if dropped is not None:
            counts[f"dropped.{reason}"] = int(dropped.sum())
            pairs = [pair for pair, is_dropped in zip(pairs, dropped, strict=True) if not is_dropped]
    if options.max_per_noun is not None:
        limited = limit_per_noun(pairs, options.max_per_noun)
        counts["dropped.over_cap"] = len(pairs) - len(limited)
        pairs = limited
    return pairs, counts


def _left_out(options: SelectOptions) -> Callable[[Row], str | None]:
    """A function that returns why a pair is left out by name: "excluded" or "near_duplicate"; None if it is not."""
    wrong = frozenset() if options.exclude is None else read_wrong_pairs(options.exclude)
    images: frozenset[int] = frozenset()
    if options.near_duplicates is not None:
        column = tables.read(options.near_duplicates, "near_duplicates", ["image_id"])["image_id"]
        images = frozenset(column.to_pylist())

    def reason(row: Row) -> str | None:
        if WrongPair(row["image_id"], row["noun"], row["proposal"]) in wrong:
            return "excluded"
        return "near_duplicate" if row["image_id"] in images else None

    return reason


def _explain_no_pairs(candidates: Path, counts: Mapping[str, int]) -> str:
    if not any(counts.values()):
        return (
            f"no pair is left, because {candidates} has no candidate: no noun of any image has a proposal there. Compare the "
            "counts in step.json of the tables nouns and proposals"
        )
    reasons = ", ".join(f"{n:,} {name.removeprefix('dropped.')}" for name, n in counts.items() if n)
    return f"no pair is left: {reasons}. Relax the thresholds and filters of section select"


def _candidates_by_image(candidates: Path) -> Iterator[tuple[int, list[Row]]]:
    """The part number and the candidates of each image."""
    for path in tables.parts(candidates):
        rows = tables.read_part(path, "candidates").to_pylist()
        for _, group in groupby(rows, key=lambda row: row["image_id"]):
            yield int(path.stem), list(group)


def _annotated_pairs(proposals: Path) -> list[Row]:
    """Every annotated mask paired with its class name; such a pair has no caption and no similarity."""
    columns = ["image_id", "proposal", "area", "source", "label"]
    return [
        {"part": int(path.stem), "noun": row.pop("label").lower(), **row}
        for path in tables.parts(proposals)
        for row in tables.read_part(path, "proposals", columns).to_pylist()
        if row["label"] is not None
    ]


def _shuffled(pairs: list[Row], seed: int) -> list[Row]:
    """Shuffle parts, then images within each part, so a shard reads only a few parts; the loader's buffer shuffles further."""
    images = sorted({(pair["part"], pair["image_id"]) for pair in pairs})
    parts = sorted({part for part, _ in images})
    rng = np.random.default_rng(seed)
    part_position = dict(zip(parts, rng.permutation(len(parts)).tolist(), strict=True))
    image_position = dict(zip(images, rng.permutation(len(images)).tolist(), strict=True))
    return sorted(pairs, key=lambda pair: (part_position[pair["part"]], image_position[pair["part"], pair["image_id"]]))
