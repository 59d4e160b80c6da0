"""Stage `convert` of data/*/dvc.yaml: converts the official release of a data set into a benchmark."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.datasets.official import convert
from ovseg.engine.runtime import from_environment
from stages._run import run_stage


def main(_: Params, dataset: str, name: str) -> None:
    """Write data/benchmarks/BENCHMARK; the command is `python -m stages.convert DATASET BENCHMARK`."""
    out, workers = Path("data/benchmarks", name), from_environment().workers
    convert(name, Path("data", dataset), out, workers=workers, replace=True)


if __name__ == "__main__":
    run_stage(main, "DATASET", "BENCHMARK")
