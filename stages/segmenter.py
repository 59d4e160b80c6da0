"""Stage `segmenter`: the proposal network, trained on annotated masks. With several GPUs it starts torchrun itself."""

from dataclasses import replace
from pathlib import Path

from ovseg.params import Params
from ovseg.report.recall import write_recall
from ovseg.runtime import from_environment
from ovseg.training.segmenter import SegmenterRecipe, train_segmenter
from stages._run import is_first_rank, max_steps, run_training

OUT = Path("models/segmenter")


def main(params: Params) -> None:
    """Read sections segmenter and heldout, write models/segmenter and reports/segmenter."""
    runtime = replace(from_environment(), stop_after=max_steps())
    section = params.segmenter
    recipe = section.model_dump(exclude={"init", "annotations", "licence"})
    train_segmenter(
        Path("data/index"),
        Path(params.index.images),
        Path(section.annotations),
        Path("models/base"),
        Path(section.init) if section.init else None,
        OUT,
        runtime,
        SegmenterRecipe(**recipe),
        section.licence,
    )
    if is_first_rank():
        write_recall(
            OUT,
            Path(params.heldout.images),
            Path(params.heldout.truth),
            Path("reports/segmenter"),
            device=runtime.devices[0],
            mask_threshold=params.propose.mask_threshold,
            max_proposals=params.propose.max_proposals,
            limit=params.heldout.limit,
        )


if __name__ == "__main__":
    run_training(main)
