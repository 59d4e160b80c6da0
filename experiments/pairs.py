"""What the filters of `select` are worth: precision and recall of pairs against annotations; writes the table of docs/pairs.md.

    dvc exp run -S demo.train=4000                 the run of the tables, with more images than the default
    python -m experiments.pairs                    every filter that needs no second CLIP
    python -m experiments.pairs --second FOLDER    with the candidates of another CLIP, see docs/pairs.md

Nothing is scored or trained: each row selects from the same tables again, which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.tables import replace_table
from ovseg.core.options import SelectOptions
from ovseg.engine.runtime import from_environment
from ovseg.mining.select import Row, mined_pairs
from ovseg.report.metric_tables import markdown
from ovseg.report.quality import judge_pairs

DOCUMENT = Path("docs/pairs.md")
NAME = "python -m experiments.pairs"
RULE = "the paper's rule"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    RULE: {},
    "`rule: one_to_one`": {"rule": "one_to_one"},
    "`mutual`": {"mutual": True},
    "`max_overlap: 0.8`": {"max_overlap": 0.8},
    "`max_overlap: 0.5`": {"max_overlap": 0.5},
    "`group_outlier: 0.1`": {"group_outlier": 0.1},
    "`group_outlier: 0.2`": {"group_outlier": 0.2},
    "`group_outlier: 0.3`": {"group_outlier": 0.3},
    "`mutual`, `group_outlier: 0.2`": {"mutual": True, "group_outlier": 0.2},
}
CONFIRMED: Mapping[str, Mapping[str, Any]] = {
    "`second_rank: 1`": {"second_rank": 1},
    "`second_rank: 2`": {"second_rank": 2},
    "`second_rank: 1`, `group_outlier: 0.2`": {"second_rank": 1, "group_outlier": 0.2},
}
"""The rows with a second CLIP."""
QUANTILES = (0.1, 0.3)  # fractions of the pairs that the thresholds are set to drop


class Outcome(NamedTuple):
    """Numbers of pairs: selected, those of them that can be judged, and the correct ones of these."""

    selected: int
    judged: int
    correct: int


class Tables(NamedTuple):
    """Where the tables of a run and the annotations are."""

    candidates: Path
    proposals: Path
    annotations: Path
    scratch: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every row and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, default=Path("data/candidates"), help="folder of that table")
    parser.add_argument("--proposals", type=Path, default=Path("data/proposals"), help="folder of that table")
    parser.add_argument("--second", type=Path, help="candidates of another CLIP, from the same nouns and proposals")
    parser.add_argument("--annotations", type=Path, default=Path("data/demo/train/truth.json"), help="COCO JSON")
    options = parser.parse_args(arguments)
    scratch = from_environment().work / "pairs"
    outcomes = compare(Tables(options.candidates, options.proposals, options.annotations, scratch), options.second)
    text = replace_table(DOCUMENT.read_text(encoding="utf-8"), NAME, table(outcomes))
    DOCUMENT.write_text(text, encoding="utf-8")
    print(table(outcomes))


def compare(tables: Tables, second: Path | None) -> dict[str, Outcome]:
    """Select by each row, and judge its pairs; thresholds are set to drop the fractions `QUANTILES` of the paper's pairs.

    Args:
        tables: the tables of a run.
        second: folder of the candidates of another CLIP; None leaves out the rows that need it.
    """
    pairs, _ = mined_pairs(tables.candidates, tables.proposals, SelectOptions())
    variants = dict(VARIANTS)
    for name in ("similarity", "margin"):
        values = [pair[name] for pair in pairs if pair[name] is not None]
        for fraction in QUANTILES:
            threshold = max(0.0, float(np.quantile(values, fraction)))
            variants[f"`min_{name}`, lowest {100 * fraction:.0f}%"] = {f"min_{name}": threshold}
    outcomes = {name: outcome(tables, options) for name, options in variants.items()}
    if second is not None:
        outcomes |= {
            name: outcome(tables, {**options, "second_candidates": second}) for name, options in CONFIRMED.items()
        }
        for name in (RULE, "`group_outlier: 0.2`"):
            outcomes[f"second CLIP: {name}"] = outcome(tables._replace(candidates=second), VARIANTS[name])
    return outcomes


def outcome(tables: Tables, options: Mapping[str, Any]) -> Outcome:
    """Select from the candidates with some options, and count the pairs."""
    pairs: list[Row]
    pairs, _ = mined_pairs(tables.candidates, tables.proposals, SelectOptions(**options))
    judged = judge_pairs(pairs, tables.proposals, tables.annotations, tables.scratch)
    return Outcome(len(pairs), len(judged), sum(is_correct for _, is_correct in judged))


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Return the rows as a Markdown table, in percent; recall is of the correct pairs of the paper's rule."""
    plain = outcomes[RULE]
    header = ["`select`", "pairs", "precision", "recall", "wrong pairs left"]
    wrong = plain.judged - plain.correct
    cells = [
        [
            name,
            f"{row.selected:,}",
            _percent(row.correct, row.judged),
            _percent(row.correct, plain.correct),
            _percent(row.judged - row.correct, wrong),
        ]
        for name, row in outcomes.items()
    ]
    return markdown([header, *cells])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


if __name__ == "__main__":
    main()
