"""Draw the demo data set: `python -m data.demo.draw` (about a minute on two cores). Stage `draw` of data/demo/dvc.yaml."""

from pathlib import Path

from data.demo.world.make import make_split
from ovseg.core.options import Natural, Options, PositiveInt
from ovseg.core.params import Params, read_section
from stages._run import run_stage

HERE = Path(__file__).parent


class DemoOptions(Options):
    """Section `demo` of params.yaml."""

    seed: Natural
    """Seed of all that is drawn."""
    train: PositiveInt
    """Number of images to mine."""
    val: PositiveInt
    """Number of held-out images, to choose thresholds and weights on."""
    benchmark: PositiveInt
    """Number of images of the benchmarks."""


def main(_: Params) -> None:
    """Read section demo, write data/demo/{train,val,benchmark}."""
    demo = read_section(Path("params.yaml"), "demo", DemoOptions)
    make_split(HERE / "train", "train", demo.train, demo.seed)
    make_split(HERE / "val", "val", demo.val, demo.seed)
    make_split(HERE / "benchmark", "benchmark", demo.benchmark, demo.seed)


if __name__ == "__main__":
    run_stage(main)
