"""The leaderboard: every method on the demo, on one evaluator; writes the table of docs/methods.md.

    dvc exp run -S demo.train=4000                   the run of the tables, with more images than the default
    python -m experiments.methods                    train and evaluate the rows without stored figures (hours on two cores)
    python -m experiments.methods --rows NAME ...    these rows alone
    python -m experiments.methods --costs            only count and time one image with 100 regions, on a quiet machine
    python -m experiments.methods --table            write the table from the figures that are stored

The tables, models, benchmarks and held-out masks are those of the run in this folder, and nothing is mined again. Figures are
stored in experiments/methods.json as soon as a row is measured; a row and seed with stored figures does not run again.
Several processes may run other rows at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.method_costs import costs_of_method
from experiments.method_rows import METHODS
from experiments.method_runs import read_run, train_and_evaluate
from experiments.methods_table import tables_of
from experiments.tables import read_figures, store_figures, write_table
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import from_environment

RESULTS, DOCUMENT = Path("experiments/methods.json"), Path("docs/methods.md")
NAME = "python -m experiments.methods"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that have no figures, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=list(METHODS), choices=list(METHODS), help="rows to run")
    parser.add_argument("--costs", action="store_true", help="only count and time one image with 100 regions")
    parser.add_argument("--table", action="store_true", help="write the table from the figures that are stored")
    options = parser.parse_args(arguments)
    if options.costs:
        measure_costs(read_params(), options.rows)
    elif not options.table:
        run(read_params(), options.rows, options.seeds)
    write_table(DOCUMENT, NAME, lambda: tables_of(read_figures(RESULTS, METHODS)))


def run(params: Params, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Train and measure, and store the figures of each row and seed as soon as they are known."""
    for seed in seeds:
        for row in rows:
            method = METHODS[row]
            folder = from_environment().work / "methods" / f"{slug(row)}-{seed}"
            stored = "benchmarks" in read_figures(RESULTS, rows).get(row, {}).get(str(seed), {})
            if stored or not (method.trains or seed == seeds[0]):
                continue
            of_run = method.of_run and seed == params.finetune.seed
            figures = read_run(params, method) if of_run else train_and_evaluate(params, method, seed, folder)
            store_figures(RESULTS, row, seed, figures)
            print(row, seed, json.dumps(figures), flush=True)


def measure_costs(params: Params, rows: Sequence[str]) -> None:
    """Store the costs of each row with the other figures of its first seed."""
    for row in rows:
        figures = costs_of_method(params, METHODS[row])
        first = min(map(int, read_figures(RESULTS, rows).get(row, {})), default=0)
        store_figures(RESULTS, row, first, figures)
        print(row, json.dumps(figures), flush=True)


def slug(row: str) -> str:
    """Return a row's name as the name of a folder."""
    return "-".join("".join(c if c.isalnum() else " " for c in row.lower()).split())


if __name__ == "__main__":
    main()
