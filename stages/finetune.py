"""Stage `finetune`: CLIP's image tower on mined pairs (paper 3.2), or a region encoder. Several GPUs start torchrun."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.training.region_training import RunFolders, adapt_regions
from stages._adapt import MODELS, regions_source, run_adaptation
from stages._run import run_training, training_runtime

DATA = Path("data")


def main(params: Params) -> None:
    """Read section finetune, write models/finetune."""
    options, out = params.finetune, MODELS / "finetune"
    if options.method in ("crops", "text_prompts"):
        run_adaptation(options, params, out)
        return
    run = RunFolders(DATA / "index", DATA / "proposals", DATA / "pairs", params.index.images)
    init, runtime, source = MODELS / options.init, training_runtime(), regions_source(run, options.pairs, params)
    adapt_regions(init, run, out, runtime, options, params.crop, source, params.heldout)


if __name__ == "__main__":
    run_training(main)
