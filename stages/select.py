"""Stage `select`: the candidates that become pairs."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.select import select_pairs
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section select, write data/pairs."""
    select_pairs(
        Path("data/candidates"),
        Path("data/proposals"),
        Path("data/pairs"),
        from_environment(params.checks.max_dropped),
        params.select,
    )


if __name__ == "__main__":
    run_stage(main)
