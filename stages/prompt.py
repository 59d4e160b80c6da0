"""Stage `prompt`: mask prompts (paper 3.3), and the image tower with them if asked. With several GPUs it starts torchrun."""

from ovseg.core.params import Params
from stages._adapt import run_adaptation
from stages._run import run_training


def main(params: Params) -> None:
    """Read section prompt, write models/prompt."""
    section = params.prompt
    run_adaptation("prompt", section, params, lr=section.tower_lr, prompt_lr=section.lr, depth=section.depth)


if __name__ == "__main__":
    run_training(main)
