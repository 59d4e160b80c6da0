"""Stage `proposal_network`: the proposal network, trained on annotated masks. With several GPUs it starts torchrun itself."""

from dataclasses import replace
from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.training.proposal_network import ProposalNetworkRecipe, train_proposal_network
from stages._run import max_steps, run_training

OUT = Path("models/proposal_network")


def main(params: Params) -> None:
    """Read section proposal_network, write models/proposal_network."""
    runtime = replace(from_environment(), stop_after=max_steps())
    section = params.proposal_network
    recipe = section.model_dump(exclude={"init", "annotations", "licence"})
    train_proposal_network(
        Path("data/index"),
        Path(params.index.images),
        Path(section.annotations),
        Path("models/base"),
        Path(section.init) if section.init else None,
        OUT,
        runtime,
        ProposalNetworkRecipe(**recipe),
        section.licence,
    )


if __name__ == "__main__":
    run_training(main)
