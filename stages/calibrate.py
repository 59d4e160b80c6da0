"""Stage `calibrate`: the ensemble's weight and the mask threshold of each model, chosen on a held-out split alone."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.calibrate import calibrate
from stages._evaluate import MODELS, NETWORK, options
from stages._run import run_stage


def main(params: Params) -> None:
    """Read sections calibrate and segment, write data/calibrate and reports/calibrate."""
    calibrate(
        Path(params.calibrate.benchmark),
        NETWORK,
        {name: MODELS / name for name in params.evaluate.models},
        Path("data/calibrate"),
        Path("reports/calibrate"),
        from_environment(),
        weights=params.calibrate.weights,
        thresholds=params.calibrate.thresholds,
        metric=params.calibrate.metric,
        limit=params.calibrate.limit,
        **options(params),
    )


if __name__ == "__main__":
    run_stage(main)
