"""What better pairs are worth in mIoU: CLIP finetuned on filtered pairs, and on those of a second and a third round of mining.

    dvc exp run -S demo.train=4000                  the run of the tables, with more images than the default
    python -m experiments.rounds                    train and evaluate the rows without stored figures (hours on two cores)
    python -m experiments.rounds --rows NAME ...    these rows alone
    python -m experiments.rounds --table            write the table of docs/pairs.md from the figures that are stored

In a second round the CLIP that the run has finetuned on the paper's pairs scores the same nouns and proposals, and the base
CLIP is finetuned on the new pairs; in a third round that CLIP scores. Figures are stored in experiments/rounds.json; those of
the paper's rule are the leaderboard's (`python -m experiments.methods --rows "OVSeg, FT"`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.method_rows import METHODS, Changes
from experiments.method_runs import CANDIDATES, DATA, FINETUNED, selected_shards, train_and_evaluate
from experiments.methods import RESULTS as METHOD_RESULTS
from experiments.methods import slug
from experiments.methods_table import BENCHMARKS, percent
from experiments.tables import Figures, Results, locked, read_figures, store_figures, write_table
from ovseg.core.options import ClipOptions, SelectOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import Runtime, from_environment
from ovseg.mining.score import score_nouns
from ovseg.mining.select import mined_pairs
from ovseg.report.metric_tables import markdown
from ovseg.report.quality import judge_pairs

RESULTS, DOCUMENT = Path("experiments/rounds.json"), Path("docs/pairs.md")
NAME = "python -m experiments.rounds"
TRUTH = DATA / "demo" / "train" / "truth.json"
RULE, FINETUNE = "the paper's rule", "OVSeg, FT"
RULE_PAIRS: Figures = {"pairs": 8702, "precision": 0.7456906458285452}
"""Of the run of the tables, as its reports/metrics.json had them (commit 2dfa131); the leaderboard does not store them."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a row.

    Attributes:
        round: the round of mining; the CLIP of the round before has scored, in the first the base CLIP.
        select: what it changes of section select.
        second: whether pairs must agree with the candidates of the second round.
    """

    round: int = 1
    select: Changes = field(default_factory=dict)
    second: bool = False


ROWS: Mapping[str, Pairs] = {
    "`mutual`": Pairs(select={"mutual": True}),
    "`max_overlap: 0.5`": Pairs(select={"max_overlap": 0.5}),
    "`group_outlier: 0.2`": Pairs(select={"group_outlier": 0.2}),
    "`second_rank: 2`": Pairs(select={"second_rank": 2}, second=True),
    "second round": Pairs(round=2),
    "third round": Pairs(round=3),
}
ROUNDS = {2: "second round", 3: "third round"}
"""The row whose CLIP, of seed 0, scores in the next round."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that have no figures, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--table", action="store_true", help="write the table from the figures that are stored")
    options = parser.parse_args(arguments)
    if not options.table:
        run(read_params(), options.rows, options.seeds)
    write_table(DOCUMENT, NAME, lambda: table(read_results()))


def read_results() -> Results:
    """Read the stored figures: those of the paper's rule are the leaderboard's, with `RULE_PAIRS`."""
    rule = read_figures(METHOD_RESULTS, METHODS).get(FINETUNE, {})
    return {RULE: {seed: RULE_PAIRS | figures for seed, figures in rule.items()}} | read_figures(RESULTS, ROWS)


def run(params: Params, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Mine, train and measure, and store the figures of each row and seed as soon as they are known."""
    runtime = from_environment()
    work = runtime.work / "rounds"
    for seed in seeds:
        for row in rows:
            if str(seed) in read_figures(RESULTS, rows).get(row, {}):
                continue
            folder = work / f"{slug(row)}-{seed}"
            with locked(work / "mined"):  # rows of one round share its candidates
                shards, precision = mine(params, ROWS[row], work, slug(row), runtime)
            figures = precision | train_and_evaluate(params, METHODS[FINETUNE], seed, folder, shards)
            store_figures(RESULTS, row, seed, figures)
            print(row, seed, json.dumps(figures), flush=True)


def mine(params: Params, pairs: Pairs, work: Path, name: str, runtime: Runtime) -> tuple[Path, dict[str, float | int]]:
    """Write the shards of a row, and return their folder with the number of pairs and the fraction of correct ones."""
    candidates = candidates_of(params, pairs.round, work, runtime)
    select = dict(pairs.select)
    if pairs.second:
        select["second_candidates"] = candidates_of(params, 2, work, runtime)
    shards = selected_shards(params, candidates, select, work, name, runtime)
    options = SelectOptions.model_validate(params.select.model_dump() | select)
    chosen, _ = mined_pairs(candidates, DATA / "proposals", options)
    judged = judge_pairs(chosen, DATA / "proposals", TRUTH, work / "judged")
    return shards, {"pairs": len(chosen), "precision": sum(correct for _, correct in judged) / len(judged)}


def candidates_of(params: Params, number: int, work: Path, runtime: Runtime) -> Path:
    """Return the candidates of a round; those of the run, or the ones that the CLIP of the round before has scored."""
    if number == 1:
        return CANDIDATES
    clip = FINETUNED if number == 2 else work / f"{slug(ROUNDS[number - 1])}-0" / "finetune"
    out = work / f"candidates-{number}"
    tables = DATA / "index", params.index.images, DATA / "nouns", DATA / "proposals"
    score_nouns(*tables, out, runtime, ClipOptions(model=f"local-dir:{clip}"), params.score, params.crop)
    return out


def table(results: Results) -> str:
    """Return the rows as a Markdown table: pairs, precision, mask accuracy and mIoU in percent."""
    header = ["pairs of", "pairs", "precision", "mask accuracy", *BENCHMARKS, "seeds"]
    rows = []
    for row, by_seed in results.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        if not runs:
            continue
        pairs, precision = runs[0].get("pairs"), runs[0].get("precision")
        rows.append(
            [
                row,
                f"{pairs:,}" if pairs else "",
                percent([precision]) if precision else "",
                percent([run["mask_accuracy"]["all"] for run in runs]),
                *(percent([run["benchmarks"][name]["miou"] for run in runs]) for name in BENCHMARKS),
                str(len(runs)),
            ]
        )
    return markdown([header, *rows])


if __name__ == "__main__":
    main()
