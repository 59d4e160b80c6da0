"""The paper's tables on the demo: every variant with three seeds, run, and written to docs/paper.md.

    dvc repro && python -m experiments.paper   run what is missing, write the tables (an hour and a half on two cores)
    python -m experiments.paper --dry-run      say what would be run
    python -m experiments.paper --tables       write the tables from what there is

Each variant is `dvc exp run --temp -S ...`, which is what a worker of DVC's queue does; here they run one by one in the
foreground, as workers now and then end with the queue half done. What a variant does not change is taken as it is, so
that nothing is mined again where only the training differs. Figures are kept in experiments/results.json; what is there
is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dvc.api
from dvc.exceptions import DvcException
from scmrepo.exceptions import SCMError

from ovseg.core.files import write_json
from ovseg.core.params import read_params
from ovseg.report.paper import TABLES, Runs, comparisons, lines, markdown
from ovseg.report.tables import read_runs

Results = dict[str, dict[str, Any]]
"""Figures by variant and seed."""
RESULTS, TARGET = Path("experiments/results.json"), Path("docs/paper.md")
SEEDS = (0, 1, 2)
THREE = "evaluate.benchmarks=[mixed,all,fine]"  # that the paper's tables 2, 3 and 5 are on
PAIRS = (
    THREE,
    "evaluate.models=[finetune]",
    "prompt.epochs=0",
    "finetune.max_steps=201",
)  # as many steps as by default
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "prompt-first": (THREE, "evaluate.models=[finetune,prompt]", "prompt.init=base", "finetune.init=prompt"),
    "at-once": (THREE, "evaluate.models=[prompt]", "prompt.init=base", "prompt.tower_lr=3e-4", "finetune.epochs=0"),
    "gt-classes": (*PAIRS, "select.annotated_fraction=1.0"),
    "gt-masks": (*PAIRS, "propose.source=ground_truth", "propose.path=data/demo/train/panoptic.json"),
    "captions-5": (*PAIRS, "nouns.captions_per_image=all"),
    "unmasked": (THREE, "evaluate.models=[base]", "segment.view=crop", "finetune.epochs=0", "prompt.epochs=0"),
}
"""Parameters of each variant; the seeds of both trainings come on top. The same number of steps for all."""
ONCE = ("unmasked",)  # nothing is trained: one seed
HEAD = """# The paper's tables on the demo

Made by `python -m experiments.paper`. The paper's figures (arXiv 2210.04150; Swin-B and ViT-L/14, COCO) stand beside
ours on the drawn demo (mean and standard deviation over the seeds of both trainings, as many as the table of variants
says; one proposal network, one mining). Both are mIoU in percent by OVSeg's rule (classes with true or guessed
pixels), by the ensemble unless a row says otherwise; weight and mask threshold are chosen by the stage `calibrate` on
held-out images for each model of each run. The demo's benchmarks stand in the roles of the paper's: `fine` A-847,
`novel` PC-459, `all` A-150, `mixed` PC-59, `annotated` PAS-20. "undecided" means that ours is within twice its
standard error. The demo is small and drawn: it can show which way a difference goes, not how large it is on
photographs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    parser.add_argument("--tables", action="store_true", help="write the tables from what there is")
    chosen = parser.parse_args(arguments)
    done: Results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    wanted = [(variant, seed) for seed in SEEDS for variant in VARIANTS if seed == SEEDS[0] or variant not in ONCE]
    missing = [(variant, seed) for variant, seed in wanted if str(seed) not in done.get(variant, {})]
    if chosen.dry_run:
        for variant, seed in missing:
            print(" ".join(command(variant, seed)))
        return
    missing = collect(missing, done)
    if not chosen.tables:
        run(missing, done)
    TARGET.write_text(document(read_runs(RESULTS)), encoding="utf-8")
    print(f"-> {TARGET}")


def command(variant: str, seed: int) -> list[str]:
    """What runs one variant, in a copy of the repository of its own."""
    seeds = (f"finetune.seed={seed}", f"prompt.seed={seed}")
    changes = [word for change in (*VARIANTS[variant], *seeds) for word in ("-S", change)]
    return ["dvc", "exp", "run", "--temp", "--name", name(variant, seed), *changes]


def name(variant: str, seed: int) -> str:
    """Name of an experiment."""
    return f"paper-{variant}-{seed}"


def run(missing: Sequence[tuple[str, int]], done: Results) -> None:
    """Run experiments one after the other, and keep the figures of each as soon as it is done."""
    for variant, seed in missing:
        print(f"{name(variant, seed)}: {' '.join(command(variant, seed))}", flush=True)
        ended = subprocess.run(command(variant, seed), check=False)
        if ended.returncode or collect([(variant, seed)], done):
            print(f"{name(variant, seed)} failed with exit code {ended.returncode}; the others go on", file=sys.stderr)


def collect(missing: Sequence[tuple[str, int]], done: Results) -> list[tuple[str, int]]:
    """Keep the figures of experiments that are finished; returns the others."""
    rest = []
    for variant, seed in missing:
        found = measured(variant, seed)
        if found is None:
            rest.append((variant, seed))
        else:
            done.setdefault(variant, {})[str(seed)] = found
            write_json(RESULTS, done)
    return rest


def measured(variant: str, seed: int) -> dict[str, Any] | None:
    """The figures of a finished experiment; None if there is none of that name."""
    if (variant, seed) == ("default", SEEDS[0]):  # what the repository holds: DVC makes no experiment without a change
        return _of_this_run()
    try:
        metrics = json.loads(dvc.api.read("reports/metrics.json", rev=name(variant, seed)))
    except (DvcException, SCMError, OSError):
        return None
    return {"benchmarks": metrics["benchmarks"]}


def _of_this_run() -> dict[str, Any]:
    if read_params(Path("params.yaml")) != read_params(Path("recipes/demo.yaml")):
        raise SystemExit(
            "params.yaml is not recipes/demo.yaml; the paper's tables are of the demo: copy it, and dvc repro"
        )
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    return {"benchmarks": metrics["benchmarks"]}


def document(runs: Runs) -> str:
    """docs/paper.md: tables, and which comparisons of the paper come out here."""
    listed = [
        [name, str(len(runs.get(name, []))), ", ".join(f"`{c}`" for c in changes) or "as they are"]
        for name, changes in VARIANTS.items()
    ]
    parts = [markdown([["variant", "seeds", "parameters"], *listed])]
    said: Counter[str] = Counter()
    for table in TABLES:
        parts += [f"## {table.title}", markdown(lines(table, runs))]
        compared = comparisons(table, runs)
        said.update(cell.rpartition(": ")[2] for row in compared[1:] for cell in row[1:] if cell)
        if len(compared) > 1:
            parts += ["Differences, the paper's / ours, and whether the sign is the same:", markdown(compared)]
    one = f", {said['one seed']} have one seed" if said["one seed"] else ""
    count = (
        f"Of the {said.total()} comparisons that the paper allows, {said['yes']} come out with its sign here, {said['no']} "
        f"with the other, {said['undecided']} are undecided{one}."
    )
    return "\n\n".join([HEAD, *([count] if said else []), *parts]) + "\n"


if __name__ == "__main__":
    main()
