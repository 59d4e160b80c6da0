"""Stage `measure`: one trained model, its name on the command line; DVC runs it for each."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.measure import measure_clip, measure_proposal_network
from stages._run import run_stage


def main(params: Params, name: str) -> None:
    """Read section heldout and models/NAME, write reports/measure/NAME."""
    runtime = from_environment(params.checks.max_dropped)
    model, out = Path("models") / name, Path("reports/measure") / name
    images, annotations = Path(params.heldout.images), Path(params.heldout.annotations)
    if name == "proposal_network":
        measure_proposal_network(
            model,
            images,
            annotations,
            out,
            runtime,
            mask_threshold=params.propose.mask_threshold,
            max_proposals=params.propose.max_proposals,
            limit=params.heldout.limit,
            orientation=params.heldout.orientation,
        )
    else:
        measure_clip(
            model,
            images,
            annotations,
            out,
            runtime,
            fill=params.crop.fill,
            antialias=params.crop.antialias,
            templates=params.heldout.templates,
            limit=params.heldout.limit,
            orientation=params.heldout.orientation,
        )


if __name__ == "__main__":
    run_stage(main, "MODEL")
