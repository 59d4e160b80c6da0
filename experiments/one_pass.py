"""What closes the gap of mask accuracy between the encoder of one pass and finetuned crops; writes tables of docs/methods.md.

    dvc exp run -S demo.train=4000                    the run of the tables, with more images than the default
    python -m experiments.one_pass                    train and evaluate the rows without stored figures (hours on two cores)
    python -m experiments.one_pass --rows NAME ...    these rows alone
    python -m experiments.one_pass --table            write the tables from the figures that are stored

Each row changes one thing of the leaderboard's "contrastive, mined", or several at once. The second table is of no training:
masks of few patches encoded as crops, the others in one pass. Figures are stored in experiments/one_pass.json, those of mask
accuracy before the benchmarks are segmented; what is stored does not run again. Several processes may run other rows at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from experiments.mask_groups import heldout_masks, measure_groups, write_groups
from experiments.method_costs import costs_of_clip
from experiments.method_rows import ADAPTER, BIASED, METHODS, Changes, Method, one_pass
from experiments.method_runs import FINETUNED, evaluate, read_run, train_and_measure, trained_clip
from experiments.methods import slug
from experiments.one_pass_tables import tables_of
from experiments.tables import Figures, read_figures, store_figures, write_table
from ovseg.clip.adapted import load_adapted
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import Runtime, from_environment

RESULTS, DOCUMENT = Path("experiments/one_pass.json"), Path("docs/methods.md")
NAME = "python -m experiments.one_pass"
CROPS, BASE = "OVSeg, FT", "contrastive, mined"
LARGER: Changes = {"image_size": 192, "max_steps": 375}
SOFT: Changes = {"image_size": 160, "coverage": "soft"}
ROWS: Mapping[str, Method] = {
    CROPS: METHODS[CROPS],
    BASE: METHODS[BASE],
    "soft coverage": METHODS["contrastive, mined, soft"],
    "160 px": one_pass("regions", image_size=160),
    "192 px": one_pass("regions", image_size=192),
    "region tokens from block 2": one_pass("regions", start_block=2),
    "region tokens from block 4": one_pass("regions", start_block=4),
    "250 steps": one_pass("regions", max_steps=250),
    "375 steps": one_pass("regions", max_steps=375),
    "64 images a batch": one_pass("regions", batch_size=64),
    "learned bias": one_pass("regions", BIASED),
    "Mask-Adapter": one_pass("mask_adapter", ADAPTER, weight_decay=0.05),
    "Mask-Adapter and tower": one_pass("regions", ADAPTER),
    "160 px, soft, 250 steps": one_pass("regions", SOFT, max_steps=250),
    "192 px, 375 steps": one_pass("regions", LARGER),
    "192 px, 375 steps, from block 2": one_pass("regions", LARGER, start_block=2),
    "192 px, 375 steps, learned bias": one_pass("regions", LARGER, BIASED),
}
PATCHES = (128 // 8) ** 2
"""The patches of the grid of `BASE`, which sizes of masks are counted in."""
SIZES = (4, 8, 16, 32, 64)
"""The sizes in patches that groups of masks begin or end at; nothing is smaller than 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that have no figures, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--table", action="store_true", help="write the tables from the figures that are stored")
    options = parser.parse_args(arguments)
    if not options.table:
        run(read_params(), options.rows, options.seeds)
    write_table(DOCUMENT, NAME, lambda: tables_of(read_figures(RESULTS, ROWS), CROPS, BASE))


def run(params: Params, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Train, measure and evaluate, and store the figures of each row and seed as soon as they are known."""
    for seed in seeds:
        for row in rows:
            method = ROWS[row]
            folder = from_environment().work / "one_pass" / f"{slug(row)}-{seed}"
            runtime = replace(from_environment(), work=folder / "work")
            of_run = method.of_run and seed == params.finetune.seed
            if "benchmarks" in read_figures(RESULTS, rows).get(row, {}).get(str(seed), {}):
                continue
            if of_run:
                clip, figures = FINETUNED, read_run(params, method)
            else:
                clip, figures = trained_clip(method, folder), train_and_measure(params, method, seed, folder, runtime)
            costs = costs_of_clip(params, load_adapted(clip), params.crop)
            figures |= {"by_size": measure_sizes(params, clip, runtime), "gflops": costs["gflops"]}
            store(row, seed, figures)
            if not of_run:
                store(row, seed, evaluate(params, method, clip, folder, runtime))


def store(row: str, seed: int, figures: Figures) -> None:
    """Store and print figures."""
    store_figures(RESULTS, row, seed, figures)
    print(row, seed, json.dumps(figures), flush=True)


def measure_sizes(params: Params, clip: Path, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Measure a CLIP on the held-out masks of each size, the smallest first."""
    sizes = [PATCHES * mask.mean() for mask in heldout_masks(params.heldout.annotations)]
    names = [f"{low} to {high}" for low, high in zip((0, *SIZES), SIZES, strict=False)] + [f"more than {SIZES[-1]}"]
    with TemporaryDirectory() as folder:
        group_of = [names[number] for number in np.digitize(sizes, SIZES)]
        files = write_groups(params.heldout.annotations, group_of, Path(folder))
        return measure_groups(params, clip, {name: files[name] for name in names if name in files}, runtime)


if __name__ == "__main__":
    main()
