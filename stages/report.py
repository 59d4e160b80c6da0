"""Stage `report`: counts, measurements, tables, plots, overlays, the page, and the pair browser."""

import json
import tempfile
from pathlib import Path

from ovseg.core.params import Params
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.calibrate import read_choice
from ovseg.report.browser import write_browser
from ovseg.report.collected import facts_of, summary, trimmed
from ovseg.report.overlays import write_overlays
from ovseg.report.page import charts, write_page
from ovseg.report.paper import ROLES, figures
from ovseg.report.plots import distributions, write_benchmark_rows, write_class_rows
from ovseg.report.quality import noun_quality, pair_quality
from ovseg.report.summary import collect
from ovseg.report.tables import read_runs, sections, write_tables
from ovseg.report.zero_shot import section, zero_shot
from ovseg.segmentation.segmenter import Segmenter
from stages._evaluate import MODELS, NETWORK, options
from stages._run import run_stage

TABLES = {"index": "index", "nouns": "nouns", "propose": "proposals", "score": "candidates", "select": "pairs"}
DATA, REPORTS, RUNS = Path("data"), Path("reports"), Path("experiments/results.json")
LEAD = (
    "One run of the pipeline: pairs mined from captions, CLIP adapted to them, and what that does to segmentation. The mined "
    'pairs can be looked through in <a href="pairs.html">pairs.html</a>.'
)


def main(params: Params) -> None:
    """Read sections report and evaluate, data/*, models/* and reports/*, write reports/."""
    plots = REPORTS / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    write_browser(DATA, Path(params.index.images), REPORTS / "pairs.html", params.report.pairs)
    distributions(DATA / "pairs", DATA / "index", plots)
    metrics = _mined(params)
    found = figures(REPORTS, params.evaluate.benchmarks)
    benchmarks = found["benchmarks"]
    metrics |= {
        name: json.loads((REPORTS / "measure" / name / "metrics.json").read_text())
        for name in ("proposal_network", "base", "finetune", "prompt")
    }
    metrics["benchmarks"] = trimmed(benchmarks)
    folder = Path(params.evaluate.folder)
    first, last, shown = params.evaluate.models[0], params.evaluate.models[-1], params.report.benchmark
    seen = zero_shot(DATA / "pairs", NETWORK, folder, DATA / "evaluate", list(benchmarks), last, plots)
    metrics["zero_shot"] = seen
    (REPORTS / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    (REPORTS / "summary.json").write_text(json.dumps(summary(metrics, last), indent=1) + "\n", encoding="utf-8")

    write_benchmark_rows(benchmarks, plots)
    classes = write_class_rows(REPORTS / "evaluate" / shown, f"{first}/ensemble", f"{last}/ensemble", plots)
    tables = sections(found, read_runs(RUNS), demo=set(ROLES.values()) == set(benchmarks))
    tables.insert(1, section(seen))
    write_tables(REPORTS / "tables.md", tables)
    segmenters: dict[str, Segmenter] = {model: _segmenter(params, model) for model in dict.fromkeys((first, last))}
    benchmark = read_benchmark(folder / shown)
    overlays = write_overlays(segmenters, benchmark, REPORTS / "overlays", params.report.images)
    shown_charts = charts(benchmarks, shown, classes, first, last)
    facts = facts_of(metrics, first, last, shown)
    write_page(REPORTS / "index.html", LEAD, facts, shown_charts, overlays, tables, unfolded=2)


def _mined(params: Params) -> dict[str, object]:
    """Counts and quality of what was mined."""
    metrics: dict[str, object] = dict(
        collect({step: DATA / table for step, table in TABLES.items()} | {"shards": Path("shards")})
    )
    captions, truth = Path(params.index.captions), Path(params.report.annotations)
    metrics |= noun_quality(DATA / "nouns", captions, params.nouns.captions_per_image, DATA / "index")
    with tempfile.TemporaryDirectory() as scratch:
        metrics |= pair_quality(DATA / "pairs", DATA / "proposals", truth, Path(scratch))
    return metrics


def _segmenter(params: Params, model: str) -> Segmenter:
    choice = read_choice(REPORTS / "calibrate", model, params.evaluate.mask_threshold, params.evaluate.weight)
    device = from_environment().devices[0]
    return Segmenter.load(
        NETWORK, MODELS / model, device, mask_threshold=choice.mask_threshold, weight=choice.weight, **options(params)
    )


if __name__ == "__main__":
    run_stage(main)
