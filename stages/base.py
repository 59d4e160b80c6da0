"""Stage `base`: the CLIP that everything starts from, copied into models/base in open_clip's local-dir layout."""

from pathlib import Path

from ovseg.clip.adapted import materialise
from ovseg.core.params import Params
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section clip, write models/base."""
    materialise(params.clip.model, params.clip.pretrained, Path("models/base"), params.clip.licence)


if __name__ == "__main__":
    run_stage(main)
