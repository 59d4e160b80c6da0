"""Run all benchmarks (about 35 minutes on two cores), or those that are named.

    python -m benchmarks [--all] [NAME ...]

Each benchmark prints a table and writes `benchmarks/results/<name>-<machine>.json`. Run nothing else in the meantime: the
file records the load that other processes caused. `--smoke` runs everything on a few images in a minute or two and writes
nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import evaluator, inputs, loader, memory, nouns, regions, score, segment, train
from benchmarks.results import Benchmark, Options, measure

BENCHMARKS: dict[str, Benchmark] = {
    "score": score.run,
    "nouns": nouns.run,
    "memory": memory.run,
    "train": train.run,
    "loader": loader.run,
    "segment": segment.run,
    "regions": regions.run,
    "evaluator": evaluator.run,
}


def main() -> int:
    """Run the benchmarks; the exit code is 0 if every target is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=inputs.HELP)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--all", action="store_true", help="score: also measure fp32")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to check that it runs; writes no results")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    met = True
    for name in arguments.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
            met &= measure(
                name, BENCHMARKS[name], Options(Path(folder), all_variants=arguments.all, smoke=arguments.smoke)
            )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
