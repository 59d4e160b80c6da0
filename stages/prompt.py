"""Stage `prompt`: mask prompts (paper 3.3), and the image tower with them if asked. With several GPUs it starts torchrun."""

from ovseg.core.params import Params
from stages._adapt import MODELS, run_adaptation
from stages._run import run_training


def main(params: Params) -> None:
    """Read section prompt, write models/prompt."""
    run_adaptation(params.prompt, params, MODELS / "prompt")


if __name__ == "__main__":
    run_training(main)
