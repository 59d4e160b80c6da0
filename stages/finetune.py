"""Stage `finetune`: CLIP's image tower on the mined pairs (paper 3.2). With several GPUs it starts torchrun itself."""

from ovseg.core.params import Params
from stages._adapt import MODELS, run_adaptation
from stages._run import run_training


def main(params: Params) -> None:
    """Read section finetune, write models/finetune."""
    run_adaptation(params.finetune, params, MODELS / "finetune")


if __name__ == "__main__":
    run_training(main)
