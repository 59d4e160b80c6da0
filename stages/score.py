"""Stage `score`: the similarity of each noun to each proposal of its image, by the base CLIP on masked crops."""

from pathlib import Path

from ovseg.core.options import ClipOptions
from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.score import score_nouns
from stages._run import run_stage


def main(params: Params) -> None:
    """Read sections crop and score, write data/candidates."""
    score_nouns(
        index=Path("data/index"),
        images=params.index.images,
        nouns=Path("data/nouns"),
        proposals=Path("data/proposals"),
        out=Path("data/candidates"),
        runtime=from_environment(params.checks.max_dropped),
        clip=ClipOptions(model="local-dir:models/base"),
        options=params.score,
        crop=params.crop,
    )


if __name__ == "__main__":
    run_stage(main)
