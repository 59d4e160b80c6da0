"""Stage `propose`: the mask proposals of each image, stored once as RLE."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.propose import propose_masks
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section propose, and models/proposal_network if that is the source; write data/proposals."""
    options = params.propose
    if options.source == "proposal_network":
        options = options.model_copy(update={"model": "models/proposal_network"})
    propose_masks(
        Path("data/index"),
        params.index.images,
        Path("data/proposals"),
        from_environment(params.checks.max_dropped),
        options,
    )


if __name__ == "__main__":
    run_stage(main)
