"""Stage `report`: counts, measurements, plots and the pair browser."""

import json
import tempfile
from pathlib import Path

from ovseg.params import Params
from ovseg.report.browser import write_browser
from ovseg.report.plots import distributions
from ovseg.report.quality import noun_quality, pair_quality
from ovseg.report.summary import collect
from stages._run import run_stage

TABLES = {"index": "index", "nouns": "nouns", "propose": "proposals", "score": "candidates", "select": "pairs"}


def main(params: Params) -> None:
    """Read section report and data/*, write reports/."""
    data, reports = Path("data"), Path("reports")
    (reports / "plots").mkdir(parents=True, exist_ok=True)
    write_browser(data, Path(params.index.images), reports / "pairs.html", params.report.pairs)
    distributions(data / "pairs", data / "index", reports / "plots")
    metrics = collect({step: data / table for step, table in TABLES.items()} | {"shards": Path("shards")})
    captions, truth = Path(params.index.captions), Path(params.report.truth)
    metrics |= noun_quality(data / "nouns", captions, params.nouns.captions_per_image, data / "index")
    with tempfile.TemporaryDirectory() as scratch:
        metrics |= pair_quality(data / "pairs", data / "proposals", truth, Path(scratch))
    (reports / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
