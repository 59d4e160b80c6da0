"""Stage `propose`: masks of each image, stored once as RLE."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.propose import propose_masks
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section propose, write data/proposals."""
    propose_masks(
        Path("data/index"),
        Path(params.index.images),
        Path("data/proposals"),
        from_environment(),
        source=params.propose.source,  # type: ignore[arg-type]
        path=params.propose.path,
        model="models/proposal_network" if params.propose.source == "proposal_network" else params.propose.model,
        annotations=params.propose.annotations,
        mask_threshold=params.propose.mask_threshold,
        max_proposals=params.propose.max_proposals,
    )


if __name__ == "__main__":
    run_stage(main)
