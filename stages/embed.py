"""Stage `embed`: CLIP's embeddings of one benchmark, whose name is on the command line; DVC runs it for each."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.evaluation.calibrate import read_thresholds
from stages._embed import embed_masks
from stages._run import run_stage


def main(params: Params, name: str) -> None:
    """Read the sections evaluate, crop and segment, and reports/calibrate; write data/regions/benchmarks/NAME."""
    models, given = params.evaluate.models, params.evaluate.mask_threshold
    thresholds = read_thresholds(Path("reports/calibrate"), models) if given is None else dict.fromkeys(models, given)
    embed_masks(
        params,
        params.evaluate.folder / name,
        Path("data/regions/benchmarks") / name,
        {model: [threshold] for model, threshold in thresholds.items()},
        ground_truth=True,
        limit=params.evaluate.limit,
    )


if __name__ == "__main__":
    run_stage(main, "BENCHMARK")
