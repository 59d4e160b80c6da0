"""Stage `embed_heldout`: CLIP's embeddings of the held-out split of `calibrate`, at every mask threshold that it tries."""

from pathlib import Path

from ovseg.core.params import Params
from stages._embed import embed_masks
from stages._run import run_stage


def main(params: Params) -> None:
    """Read the sections calibrate, crop and segment; write data/regions/heldout."""
    embed_masks(
        params,
        params.calibrate.benchmark,
        Path("data/regions/heldout"),
        dict.fromkeys(params.evaluate.models, params.calibrate.thresholds),
        ground_truth=False,
        limit=params.calibrate.limit,
        step="embed_heldout",
    )


if __name__ == "__main__":
    run_stage(main)
