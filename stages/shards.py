"""Stage `shards`: pairs as WebDataset tars of masked crops."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.shards import write_shards
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section shards, write shards/."""
    write_shards(
        Path("data/index"),
        Path(params.index.images),
        Path("data/proposals"),
        Path("data/pairs"),
        Path("shards"),
        from_environment(),
        samples_per_shard=params.shards.samples_per_shard,
        min_shards=params.shards.min_shards,
        background=params.shards.background,
        jpeg_quality=params.shards.jpeg_quality,
    )


if __name__ == "__main__":
    run_stage(main)
