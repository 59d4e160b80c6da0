"""The tables of the OVSeg paper, measured on the demo: run every variant with three seeds and write docs/paper.md.

    dvc exp run -S demo.train=4000           the run of the tables, with more images than the default
    python -m experiments.paper              run the missing variants and write the tables (1.5 hours on two cores)
    python -m experiments.paper --dry-run    print the commands of the missing variants
    python -m experiments.paper --tables     write the tables from the figures that are stored

Each variant is one `dvc exp run --temp -S ...`. They run one by one in the foreground, because workers of DVC's queue
sometimes end before the queue is done. DVC takes the stages that a variant does not change from its cache, so that nothing is
mined again where only the training differs. The figures are stored in experiments/results.json; a variant and seed with stored
figures does not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dvc.api
from dvc.exceptions import DvcException
from scmrepo.exceptions import SCMError

from experiments.paper_tables import TABLES, Run, Runs, comparison_cells, count_verdicts, table_cells
from ovseg.core.files import write_json
from ovseg.core.params import read_params
from ovseg.report.metric_tables import markdown

Results = dict[str, dict[str, dict[str, Any]]]
"""The figures of each variant and seed."""
RESULTS, DOCUMENT = Path("experiments/results.json"), Path("docs/paper.md")
SEEDS = (0, 1, 2)
THREE_BENCHMARKS = "evaluate.benchmarks=[mixed,all,fine]"  # the columns of the paper's tables 2, 3 and 5
PAIRS = (
    THREE_BENCHMARKS,
    "evaluate.models=[finetune]",
    "prompt.epochs=0",
    "finetune.max_steps=201",  # the number of steps of the default, so that only the pairs differ
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "prompt-first": (THREE_BENCHMARKS, "evaluate.models=[prompt,finetune]", "prompt.init=base", "finetune.init=prompt"),
    "at-once": (
        THREE_BENCHMARKS,
        "evaluate.models=[prompt]",
        "prompt.init=base",
        "prompt.tower_lr=3e-4",
        "finetune.epochs=0",
    ),
    "gt-classes": (*PAIRS, "select.annotated_fraction=1.0"),
    "gt-masks": (*PAIRS, "propose.source=ground_truth", "propose.path=data/demo/train/panoptic.json"),
    "captions-5": (*PAIRS, "nouns.captions_per_image=all"),
    "unmasked": (
        THREE_BENCHMARKS,
        "evaluate.models=[base]",
        "segment.view=crop",
        "finetune.epochs=0",
        "prompt.epochs=0",
    ),
}
"""The parameters that each variant changes; the seeds of both trainings are added. All train for as many steps."""
ONE_SEED = ("unmasked",)  # nothing is trained, so the seed changes nothing
HEAD = """# The paper's tables on the demo

Made by `python -m experiments.paper`. The paper's figures (arXiv 2210.04150; Swin-B and ViT-L/14, COCO) stand beside
ours on the synthetic demo with 4,000 images (mean and standard deviation over the seeds of both trainings, as many as
the table of variants says; one proposal network, one mining). Both are mIoU in percent by OVSeg's rule (mean over the
classes with ground truth or prediction), by the ensemble unless a row says otherwise; the weight and the mask threshold
are chosen by the stage `calibrate` on held-out images, for each model of each run. The demo's benchmarks take the
places of the paper's: `fine` A-847, `novel` PC-459, `all` A-150, `mixed` PC-59, `annotated` PAS-20. "undecided" means
that our difference is within twice its standard error. The demo is small and synthetic: it can show the direction of a
difference, not its size on photographs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing variants, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the missing variants")
    parser.add_argument("--tables", action="store_true", help="write the tables from the figures that are stored")
    options = parser.parse_args(arguments)
    results: Results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    all_runs = [
        (variant, seed) for seed in SEEDS for variant in VARIANTS if seed == SEEDS[0] or variant not in ONE_SEED
    ]
    missing = [(variant, seed) for variant, seed in all_runs if str(seed) not in results.get(variant, {})]
    if options.dry_run:
        for variant, seed in missing:
            print(" ".join(command(variant, seed)))
        return
    missing = collect(missing, results)
    if not options.tables:
        run(missing, results)
    DOCUMENT.write_text(document(read_runs(RESULTS)), encoding="utf-8")
    print(f"-> {DOCUMENT}")


def read_runs(path: Path) -> Runs:
    """Read the stored figures of all variants, each in the order of its seeds; none if the file does not exist."""
    if not path.is_file():
        return {}
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return {variant: [by_seed[seed] for seed in sorted(by_seed)] for variant, by_seed in results.items()}


def command(variant: str, seed: int) -> list[str]:
    """Return the command that runs one variant in a temporary copy of the repository."""
    seeds = (f"finetune.seed={seed}", f"prompt.seed={seed}")
    changes = [word for change in (*VARIANTS[variant], *seeds) for word in ("-S", change)]
    return ["dvc", "exp", "run", "--temp", "--name", experiment_name(variant, seed), *changes]


def experiment_name(variant: str, seed: int) -> str:
    """Return the name of the DVC experiment of a variant and seed."""
    return f"paper-{variant}-{seed}"


def run(missing: Sequence[tuple[str, int]], results: Results) -> None:
    """Run experiments one after the other and store the figures of each as soon as it ends."""
    for variant, seed in missing:
        name = experiment_name(variant, seed)
        print(f"{name}: {' '.join(command(variant, seed))}", flush=True)
        process = subprocess.run(command(variant, seed), check=False)
        if process.returncode or collect([(variant, seed)], results):
            print(f"{name} failed with exit code {process.returncode}; the others still run", file=sys.stderr)


def collect(missing: Sequence[tuple[str, int]], results: Results) -> list[tuple[str, int]]:
    """Store the figures of the experiments that are finished, and return the others."""
    unfinished = []
    for variant, seed in missing:
        figures = read_figures(variant, seed)
        if figures is None:
            unfinished.append((variant, seed))
        else:
            results.setdefault(variant, {})[str(seed)] = dict(figures)
            write_json(RESULTS, results)
    return unfinished


def read_figures(variant: str, seed: int) -> Run | None:
    """Read the figures of a finished experiment; None if there is no experiment of that name."""
    if (variant, seed) == ("default", SEEDS[0]):  # DVC creates no experiment where no parameter changes
        return _figures_of_workspace()
    try:
        metrics = json.loads(dvc.api.read("reports/metrics.json", rev=experiment_name(variant, seed)))
    except (DvcException, SCMError, OSError):
        return None
    return {"benchmarks": metrics["benchmarks"]}


def _figures_of_workspace() -> Run:
    if read_params(Path("params.yaml")) != read_params(Path("recipes/demo.yaml")):
        raise SystemExit(
            "params.yaml differs from recipes/demo.yaml, but the paper's tables are measured on the demo. Copy "
            "recipes/demo.yaml to params.yaml and run `dvc repro` first."
        )
    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    return {"benchmarks": metrics["benchmarks"]}


def document(runs: Runs) -> str:
    """Return docs/paper.md: the variants, the tables, and the comparisons of their rows."""
    variants = [
        [name, str(len(runs.get(name, []))), ", ".join(f"`{change}`" for change in changes) or "unchanged"]
        for name, changes in VARIANTS.items()
    ]
    parts = [markdown([["variant", "seeds", "parameters"], *variants])]
    for table in TABLES:
        parts += [f"## {table.title}", markdown(table_cells(table, runs))]
        compared = comparison_cells(table, runs)
        if len(compared) > 1:
            parts += ["Differences, the paper's / ours, and whether they have the same sign:", markdown(compared)]
    verdicts = count_verdicts(runs)
    one_seed = f", {verdicts['one seed']} have one seed" if verdicts["one seed"] else ""
    count = (
        f"Of the {verdicts.total()} different comparisons that the paper allows, {verdicts['yes']} have the paper's sign here, "
        f"{verdicts['no']} the opposite sign, {verdicts['undecided']} are undecided{one_seed}."
    )
    return "\n\n".join([HEAD, *([count] if verdicts else []), *parts]) + "\n"


if __name__ == "__main__":
    main()
