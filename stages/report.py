"""Stage `report`: counts, measurements, plots and the pair browser."""

import json
import tempfile
from pathlib import Path

from ovseg.mining.runtime import from_environment
from ovseg.params import Params
from ovseg.report.browser import write_browser
from ovseg.report.plots import distributions
from ovseg.report.quality import noun_quality, pair_quality
from ovseg.report.summary import collect
from stages._run import run_stage

STEPS = ("index", "nouns", "proposals", "candidates", "pairs")


def main(params: Params) -> None:
    """Read section report and data/*, write reports/."""
    data, reports = Path("data"), Path("reports")
    (reports / "plots").mkdir(parents=True, exist_ok=True)
    write_browser(data, Path(params.index.images), reports / "pairs.html", params.report.pairs)
    distributions(data, reports / "plots")
    metrics = collect({step: data / step for step in STEPS} | {"shards": Path("shards")})
    metrics |= noun_quality(data / "nouns", Path(params.index.captions), params.nouns.captions_per_image)
    with tempfile.TemporaryDirectory(dir=from_environment().work.parent) as scratch:
        metrics |= pair_quality(data / "pairs", data / "proposals", Path(params.report.truth), Path(scratch))
    (reports / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
