"""The pairs of a run a page at a time: all of them, filtered and sorted as in the pair browser, with those marked as wrong.

Shapes: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg.mining.wrong_pairs import WrongPair, mark_wrong_pair, read_wrong_pairs
from ovseg.report.browser import describe_pairs
from ovseg.report.sampling import read_pairs, similarities

PAGE = 24  # pairs
ROUNDING = 1e-6  # similarities are stored in float32

Order = Literal["lowest", "highest", "margin", "noun", "small", "large"]
ORDERS: dict[str, tuple[str, str]] = {
    "lowest": ("similarity", "ascending"),
    "highest": ("similarity", "descending"),
    "margin": ("margin", "ascending"),
    "noun": ("noun", "ascending"),
    "small": ("area", "ascending"),
    "large": ("area", "descending"),
}
"""The column and direction of each order; equal pairs, and pairs without a value, stand in the order of their numbers."""


@dataclass(frozen=True)
class Filters:
    """Which pairs are shown, and in which order.

    Attributes:
        order: a key of `ORDERS`.
        noun: only pairs of this noun or, if there is no such noun, of nouns that contain it; empty for all.
        low, high: smallest and largest similarity; pairs without one are shown if the whole range is.
        marked: only pairs that are marked as wrong.
    """

    order: Order = "lowest"
    noun: str = ""
    low: float = -1.0
    high: float = 1.0
    marked: bool = False


class PairPages:
    """The pairs of a run and the file of those that are marked as wrong.

    Args:
        run: the folder of the tables `index`, `pairs` and `proposals`.
        images: the folder that the files of the index are relative to.
        marks: the CSV of wrong pairs; it is written when a pair is marked.

    Raises:
        OvsegError: a table is missing, or the CSV cannot be read.
    """

    def __init__(self, run: Path, images: Path, marks: Path) -> None:
        self.run, self.images, self.marks = run, images, marks
        self.table: pa.Table = read_pairs(run / "pairs")
        self.wrong = read_wrong_pairs(marks) if marks.is_file() else frozenset[WrongPair]()
        finite = similarities(self.table)
        finite = finite[np.isfinite(finite)]
        self.range = (float(finite.min()), float(finite.max())) if len(finite) else (-1.0, 1.0)

    def matches(self, filters: Filters) -> pa.Table:
        """Return the rows of the table `pairs` that are shown, in their order."""
        table = self.table
        noun = filters.noun.strip().lower()
        if noun:
            same = pc.equal(table["noun"], noun)
            table = table.filter(same if pc.any(same).as_py() else pc.match_substring(table["noun"], noun))
        low, high = filters.low - ROUNDING, filters.high + ROUNDING
        if low > self.range[0] or high < self.range[1]:
            inside = pc.and_(pc.greater_equal(table["similarity"], low), pc.less_equal(table["similarity"], high))
            table = table.filter(inside)  # drops those without a similarity, too
        if filters.marked:
            rows = zip(*(table[name].to_pylist() for name in WrongPair._fields), strict=True)
            table = table.filter(pa.array([row in self.wrong for row in rows], pa.bool_()))
        column, direction = ORDERS[filters.order]
        return table.sort_by([(column, direction), ("pair", "ascending")])

    def page(self, filters: Filters, number: int) -> tuple[list[dict[str, Any]], int]:
        """Return the cards of a page, and the number of all pairs that match.

        Args:
            filters: which pairs.
            number: the page, from 0.

        Returns:
            cards as in the pair browser, with "pair" (image_id as text, noun, proposal) and whether it is "wrong"; a pair
            whose image cannot be read is left out.
        """
        matching = self.matches(filters)
        rows = matching.slice(number * PAGE, PAGE).to_pylist()
        position = {row["pair"]: i for i, row in enumerate(rows)}
        cards = []
        for row, card in describe_pairs(self.run, self.images, rows):
            if card is not None:
                key = WrongPair(row["image_id"], row["noun"], row["proposal"])
                identity = [str(key.image_id), key.noun, key.proposal]  # as text: JavaScript rounds 64 bits
                cards.append((position[row["pair"]], {**card, "pair": identity, "wrong": key in self.wrong}))
        return [card for _, card in sorted(cards, key=lambda one: one[0])], len(matching)

    def mark(self, pair: WrongPair, wrong: bool) -> bool:
        """Mark a pair as wrong, or no longer, in the CSV; return whether the run has such a pair.

        Raises:
            OvsegError: the CSV was changed meanwhile to one that cannot be read.
        """
        same = pc.and_(pc.equal(self.table["image_id"], pair.image_id), pc.equal(self.table["noun"], pair.noun))
        if not pc.any(pc.and_(same, pc.equal(self.table["proposal"], pair.proposal))).as_py():
            return False
        self.wrong = mark_wrong_pair(self.marks, pair, wrong)
        return True
