"""Stage `score`: how well each noun fits each mask of its image, by the base CLIP on masked crops."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.score import score_nouns
from stages._run import run_stage


def main(params: Params) -> None:
    """Read sections crop and score, write data/candidates."""
    score_nouns(
        Path("data/index"),
        Path(params.index.images),
        Path("data/nouns"),
        Path("data/proposals"),
        Path("data/candidates"),
        from_environment(),
        clip_model="local-dir:models/base",
        clip_pretrained=None,
        precision=params.score.precision,
        fill=params.crop.fill,
        antialias=params.crop.antialias,
        templates=params.score.templates,
        top_k=params.score.top_k,
        duplicate_iou=params.score.duplicate_iou,
    )


if __name__ == "__main__":
    run_stage(main)
