"""Draw the demo's data set: `python -m data.demo.draw`, about a minute on two CPU cores. Stage `draw` of data/demo/dvc.yaml."""

from pathlib import Path

from data.demo.world.make import make_split
from ovseg.core.options import Natural, Options, PositiveInt
from ovseg.core.params import Params, read_section
from stages._run import run_stage

HERE = Path(__file__).parent


class DemoOptions(Options):
    """Section `demo` of params.yaml."""

    seed: Natural
    """Seed of everything that is drawn."""
    train: PositiveInt
    """Number of images to mine."""
    val: PositiveInt
    """Number of held-out images, on which thresholds and weights are chosen."""
    benchmark: PositiveInt
    """Number of images of the benchmarks."""


def main(_: Params) -> None:
    """Read the section demo and write data/demo/{train,val,benchmark}."""
    options = read_section(Path("params.yaml"), "demo", DemoOptions)
    make_split(HERE / "train", "train", options.train, options.seed)
    make_split(HERE / "val", "val", options.val, options.seed)
    make_split(HERE / "benchmark", "benchmark", options.benchmark, options.seed)


if __name__ == "__main__":
    run_stage(main)
