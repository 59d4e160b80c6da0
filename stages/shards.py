"""Stage `shards`: pairs as WebDataset tars of masked crops."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.shards import write_shards
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section shards, write shards/."""
    write_shards(
        index=Path("data/index"),
        images=params.index.images,
        proposals=Path("data/proposals"),
        pairs=Path("data/pairs"),
        out=Path("shards"),
        runtime=from_environment(params.checks.max_dropped),
        options=params.shards,
    )


if __name__ == "__main__":
    run_stage(main)
