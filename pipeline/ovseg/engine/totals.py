"""What a step may leave out: the check that every step makes of its counts before it publishes its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg.core.errors import OvsegError
from ovseg.core.tables import open_part

DROPPED = "dropped."
REASON_COLUMNS = {"failures": ("reason", "item"), "index": ("problem", "file"), "samples": ("status", "noun")}
"""The tables whose rows say why an item was dropped: the columns of the reason and of the item; `detail` has the sentence."""


@dataclass(frozen=True)
class Total:
    """Items of one kind that a step keeps or drops.

    Attributes:
        kept: name of the count of what is kept; nothing of it left is an error.
        reasons: regular expression of the rejection reasons of these items.
        part: whether the dropped items are counted among `kept`, too.
        chosen: whether the reasons are those of parameters, such as thresholds, for which any fraction may be dropped.
    """

    kept: str
    reasons: str = ".*"
    part: bool = False
    chosen: bool = False


def check_totals(
    step: str,
    totals: Sequence[Total],
    counts: Mapping[str, int],
    max_dropped: float,
    example: Callable[[str], str | None] = lambda _reason: None,
) -> None:
    """Check that a step has kept something, and has not dropped more than a fraction of its items for one reason.

    Args:
        step: name of the step.
        totals: the kinds of items of the step; a reason belongs to the first one that it fits.
        counts: the counts of all units together; those of dropped items are `dropped.<reason>`.
        max_dropped: largest fraction in [0, 1] that may be dropped for one reason.
        example: gives a sentence about one item that was dropped for a reason, if it knows one.

    Raises:
        OvsegError: nothing is left, or too much was dropped; the message has the reason with most items and an example.
    """
    dropped = {name.removeprefix(DROPPED): n for name, n in counts.items() if name.startswith(DROPPED) and n}
    remaining = dict(dropped)
    for total in totals:
        reasons = {reason: remaining.pop(reason) for reason in list(remaining) if re.fullmatch(total.reasons, reason)}
        kept = counts.get(total.kept, 0)
        number = kept if total.part else kept + sum(reasons.values())
        worst = max(reasons, key=lambda reason: reasons[reason], default=None)
        if not kept:
            worst = worst or max(dropped, key=lambda reason: dropped[reason], default=None)
            raise OvsegError(f"{step}: no {_words(total.kept)} are left{_describe(worst, dropped, example)}")
        if worst and not total.chosen and reasons[worst] > max_dropped * number:
            raise OvsegError(
                f"{step}: {reasons[worst]:,} of {number:,} {_words(total.kept)} ({reasons[worst] / number:.0%}) were dropped "
                f"for the reason {worst}, which is more than checks.max_dropped={max_dropped:g}{_for_example(worst, example)}. "
                "Mend the input; or raise max_dropped if this is right: finished work is kept"
            )


def find_example(folder: Path, reason: str) -> str | None:
    """Return a sentence about one item that was dropped for a reason; None if no table below a folder tells one."""
    for path in sorted(folder.rglob("*.parquet")):
        source = open_part(path)
        schema = pq.read_schema(source)
        name = (schema.metadata or {}).get(b"ovseg.table", b"").decode()
        if name not in REASON_COLUMNS:
            continue
        column, item = REASON_COLUMNS[name]
        table = pq.read_table(source, columns=["image_id", column, item, "detail"], partitioning=None)
        rows = table.filter(pc.equal(table[column], reason)).slice(0, 1).to_pylist()
        if rows:
            return f"{rows[0][item]} of image {rows[0]['image_id']}: {rows[0]['detail']}"
    return None


def _describe(worst: str | None, dropped: Mapping[str, int], example: Callable[[str], str | None]) -> str:
    if worst is None:
        return ", and none were dropped: its inputs hold nothing that it can use"
    others = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items() if reason != worst)
    return f": {dropped[worst]:,} were dropped for the reason {worst}{_for_example(worst, example)}" + (
        f" (also {others})" if others else ""
    )


def _for_example(reason: str, example: Callable[[str], str | None]) -> str:
    sentence = example(reason)
    return f"; for example {sentence}" if sentence else ""


def _words(name: str) -> str:
    return name.replace("_", " ")
