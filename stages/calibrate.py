"""Stage `calibrate`: the ensemble weight and the mask threshold of each model, chosen on a held-out split."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.calibrate import calibrate
from stages._run import run_stage


def main(params: Params) -> None:
    """Read the sections calibrate, segment and crop; write data/calibrate and reports/calibrate."""
    calibrate(
        Path("models/proposal_network"),
        {name: Path("models") / name for name in params.evaluate.models},
        Path("data/calibrate"),
        Path("reports/calibrate"),
        from_environment(params.checks.max_dropped),
        params.calibrate,
        options=params.segment,
        crop=params.crop,
        embeddings=Path("data/regions/heldout"),
    )


if __name__ == "__main__":
    run_stage(main)
