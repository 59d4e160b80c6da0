"""Mask accuracy of region encoders by method and source of pairs, on the demo; writes the table of docs/methods.md.

    dvc repro && python -m experiments.methods     train and measure the rows without stored figures (hours on two cores)
    python -m experiments.methods --rows NAME ...  these rows alone
    python -m experiments.methods --table          write the table from the figures that are stored

The tables, models and held-out masks are those of the run in this folder, and nothing is mined again. Figures are stored in
experiments/methods.json as soon as a row is measured; a row and seed with stored figures does not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ovseg.clip.adapted import load_adapted
from ovseg.core.files import write_json
from ovseg.core.options import FinetuneOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.report.metric_tables import markdown
from ovseg.training.region_training import RunFolders, adapt_regions

Figures = dict[str, float]
Results = dict[str, dict[str, Figures]]
"""The figures of each row and seed."""
RESULTS, DOCUMENT = Path("experiments/methods.json"), Path("docs/methods.md")
BEGIN, END = "<!-- table: python -m experiments.methods -->\n", "<!-- end of table -->"
DATA, MODELS = Path("data"), Path("models")
SHARED: Mapping[str, Any] = {"batch_size": 32, "warmup_steps": 10, "epochs": 1, "max_steps": 60}
TEACHER = MODELS / "finetune"
ROWS: Mapping[str, Mapping[str, Any]] = {
    "untrained": {"method": "regions", "epochs": 0},
    "MAFT, annotated": {"method": "maft", "pairs": "annotated"},
    "MAFT, proposals": {"method": "maft", "pairs": "proposals"},
    "MAFT, mined": {"method": "maft", "pairs": "mined"},
    "MaskCLIP++, annotated": {
        "method": "maskclippp",
        "pairs": "annotated",
        "region_encoder": "biased_tokens",
        "scale_lr": 3e-3,
    },
    "MaskCLIP++, mined": {"method": "maskclippp", "region_encoder": "biased_tokens", "scale_lr": 3e-3},
    "contrastive, mined": {"method": "regions"},
    "contrastive, mined, all images once": {"method": "regions", "max_steps": None},
    "contrastive, mined, 192 px": {"method": "regions", "image_size": 192},
    "distilled": {"method": "distil", "teacher": TEACHER},
    "contrastive + distilled, mined": {"method": "regions", "teacher": TEACHER, "distil_weight": 1.0},
}
"""What each row changes of section finetune, beside `SHARED`; all start from models/base."""
COLUMNS = {"annotated": "_annotated", "not annotated": "_not_annotated", "all": ""}
CROPS = {"crops, untrained": "base", "crops, finetuned (OVSeg)": "finetune"}
"""Rows that the stage `measure` has measured, with their models."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows that have no figures, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--table", action="store_true", help="write the table from the figures that are stored")
    options = parser.parse_args(arguments)
    results = read_results(RESULTS)
    if not options.table:
        run(read_params(), options.rows, options.seeds, results)
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(f"-> {DOCUMENT}")


def read_results(path: Path) -> Results:
    """Read the stored figures; none if the file does not exist."""
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return results


def run(params: Params, rows: Sequence[str], seeds: Sequence[int], results: Results) -> None:
    """Train and measure, and store the figures of each row and seed as soon as they are known."""
    for row, model in CROPS.items():
        measured = json.loads(Path(f"reports/measure/{model}/metrics.json").read_text(encoding="utf-8"))["model"]
        results[row] = {"0": {name: value for name, value in measured.items() if name in _names()}}
    for seed in seeds:
        for row in rows:
            untrained_again = ROWS[row].get("epochs") == 0 and seed != seeds[0]
            if str(seed) not in results.get(row, {}) and not untrained_again:
                results.setdefault(row, {})[str(seed)] = train_and_measure(params, row, seed)
                write_json(RESULTS, results)
                print(row, seed, results[row][str(seed)], flush=True)


def options_of(finetune: FinetuneOptions, row: str, seed: int) -> FinetuneOptions:
    """Return the options of a row: those of section finetune, with what all rows and this one change."""
    return FinetuneOptions.model_validate({**finetune.model_dump(), **SHARED, **ROWS[row], "seed": seed})


def train_and_measure(params: Params, row: str, seed: int) -> Figures:
    """Train one row and measure its mask accuracy on the held-out split.

    Returns:
        mask accuracies in [0, 1], "steps", and "seconds", the wall clock of the training.
    """
    options = options_of(params.finetune, row, seed)
    runtime, heldout = from_environment(), params.heldout
    out = runtime.work / "methods" / f"{row.replace(', ', '-').replace(' ', '-')}-{seed}"
    tables = RunFolders(DATA / "index", DATA / "proposals", DATA / "pairs", params.index.images)
    source = {"mask_source": params.propose.source, "mask_licence": params.propose.licence}
    begin = time.perf_counter()
    adapt_regions(MODELS / "base", tables, out, runtime, options, params.crop, source)
    seconds = time.perf_counter() - begin
    measured = measure_mask_accuracy(
        {"model": load_adapted(out)},
        heldout.images,
        heldout.annotations,
        fill=params.crop.fill,
        antialias=params.crop.antialias,
        templates=heldout.templates,
        batch_size=runtime.batch_size,
        limit=heldout.limit,
        orientation=heldout.orientation,
    )["model"]
    steps = json.loads((out / "step.json").read_text(encoding="utf-8"))["counts"]["steps"]
    return {name: measured[name] for name in _names()} | {"steps": steps, "seconds": round(seconds)}


def with_table(text: str, results: Results) -> str:
    """Return a document with the table between its marks made new.

    Raises:
        ValueError: the marks are missing.
    """
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:before] + table(results) + "\n" + text[after:]


def table(results: Results) -> str:
    """Return the rows that have figures as a Markdown table, percent, mean and standard deviation over the seeds."""
    header = ["region vectors", *COLUMNS, "steps", "seeds"]
    cells = [
        [row, *(_percent(list(results[row].values()), suffix) for suffix in COLUMNS.values()), *_counts(results[row])]
        for row in [*CROPS, *ROWS]
        if results.get(row)
    ]
    return markdown([header, *cells])


def _names() -> list[str]:
    return [f"mask_accuracy{suffix}" for suffix in COLUMNS.values()]


def _counts(by_seed: Mapping[str, Figures]) -> list[str]:
    steps = next(iter(by_seed.values())).get("steps")
    return ["" if steps is None else f"{steps:.0f}", str(len(by_seed))]


def _percent(runs: Sequence[Figures], suffix: str) -> str:
    values = [100 * run[f"mask_accuracy{suffix}"] for run in runs]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
