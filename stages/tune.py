"""Stage `tune`: the ensemble's weight and the mask threshold of each model, chosen on a held-out split alone."""

from pathlib import Path

from ovseg.evaluation.tune import tune
from ovseg.params import Params
from ovseg.runtime import from_environment
from stages._evaluate import MODELS, NETWORK, options
from stages._run import run_stage


def main(params: Params) -> None:
    """Read sections tune and segment, write data/tune and reports/tune."""
    tune(
        Path(params.tune.benchmark),
        NETWORK,
        {name: MODELS / name for name in params.evaluate.models},
        Path("data/tune"),
        Path("reports/tune"),
        from_environment(),
        weights=params.tune.weights,
        thresholds=params.tune.thresholds,
        metric=params.tune.metric,
        limit=params.tune.limit,
        **options(params),
    )


if __name__ == "__main__":
    run_stage(main)
