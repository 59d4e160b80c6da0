"""Stage `near_duplicates`: the mined images that are nearly an image of a benchmark or of the held-out split."""

from pathlib import Path

from ovseg.core.options import ClipOptions
from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.near_duplicates import find_near_duplicates
from stages._run import run_stage


def main(params: Params) -> None:
    """Read data/index, models/base, the benchmarks and the held-out split; write data/near_duplicates/found."""
    benchmarks = [params.evaluate.folder / name for name in params.evaluate.benchmarks]
    find_near_duplicates(
        Path("data/index"),
        params.index.images,
        [*benchmarks, params.calibrate.benchmark],
        Path("data/near_duplicates/found"),
        from_environment(params.checks.max_dropped),
        ClipOptions(model="local-dir:models/base"),
        params.near_duplicates,
    )


if __name__ == "__main__":
    run_stage(main)
