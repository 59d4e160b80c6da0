"""Stage `nouns`: the nouns of each image's captions."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.nouns import extract_nouns
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section nouns, write data/nouns."""
    extract_nouns(Path("data/index"), Path("data/nouns"), from_environment(params.checks.max_dropped), params.nouns)


if __name__ == "__main__":
    run_stage(main)
