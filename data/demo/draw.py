"""Draw the demo data set: `python -m data.demo.draw` (about a minute on two cores). Stage `draw` of data/demo/dvc.yaml."""

from pathlib import Path

from data.demo.world.make import make_split
from ovseg.core.params import Params
from stages._run import run_stage

HERE = Path(__file__).parent


def main(params: Params) -> None:
    """Read section demo, write data/demo/{train,val,benchmark}."""
    make_split(HERE / "train", "train", params.demo.train, params.demo.seed)
    make_split(HERE / "val", "val", params.demo.val, params.demo.seed)
    make_split(HERE / "benchmark", "benchmark", params.demo.benchmark, params.demo.seed)


if __name__ == "__main__":
    run_stage(main)
