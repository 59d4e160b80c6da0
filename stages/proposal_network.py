"""Stage `proposal_network`: the proposal network, trained on annotated masks. With several GPUs it starts torchrun itself."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.training.proposal_network import train_proposal_network
from stages._run import run_training, training_runtime

INDEX, CLIP, OUT = Path("data/index"), Path("models/base"), Path("models/proposal_network")


def main(params: Params) -> None:
    """Read section proposal_network, write models/proposal_network."""
    runtime = training_runtime(params.checks.max_dropped)
    train_proposal_network(INDEX, params.index.images, CLIP, OUT, runtime, params.proposal_network)


if __name__ == "__main__":
    run_training(main)
