"""Stage `embed`: CLIP's embeddings of one benchmark, whose name is on the command line; DVC runs it for each."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.evaluation.calibrate import read_choice
from stages._embed import embed_masks
from stages._run import run_stage


def main(params: Params, name: str) -> None:
    """Read the sections evaluate, crop and segment, and what `calibrate` chose; write data/regions/benchmarks/NAME."""
    chosen = Path("reports/calibrate")
    given = params.evaluate.mask_threshold
    embed_masks(
        params,
        params.evaluate.folder / name,
        Path("data/regions/benchmarks") / name,
        {
            model: [read_choice(chosen, model, given, params.evaluate.weight).mask_threshold]
            for model in params.evaluate.models
        },
        ground_truth=True,
        limit=params.evaluate.limit,
    )


if __name__ == "__main__":
    run_stage(main, "BENCHMARK")
