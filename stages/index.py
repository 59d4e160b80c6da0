"""Stage `index`: the images with their captions, one row per image."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.index import build_index
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section index, write data/index."""
    build_index(Path("data/index"), from_environment(params.checks.max_dropped), params.index)


if __name__ == "__main__":
    run_stage(main)
