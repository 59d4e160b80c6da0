"""Run benchmarks: all (about 25 minutes on two cores), or some.

    python -m benchmarks [--all] [NAME ...]

Each prints a table and writes `benchmarks/results/<name>-<machine>.json`. Let nothing else run meanwhile: what others
took of the processor is in the file. `--smoke` tries everything on a handful of images in a minute or two and writes
nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import evaluator, inputs, loader, memory, nouns, score, segment, train
from benchmarks.results import Benchmark, Options, measure

BENCHMARKS: dict[str, Benchmark] = {
    "score": score.run,
    "nouns": nouns.run,
    "memory": memory.run,
    "train": train.run,
    "loader": loader.run,
    "segment": segment.run,
    "evaluator": evaluator.run,
}


def main() -> int:
    """Exit code 0 if every target is met, 1 if one is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=inputs.HELP)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--all", action="store_true", help="score: fp32 as a second row")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs; writes no results")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    met = True
    for name in asked.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
            met &= measure(name, BENCHMARKS[name], Options(Path(folder), every=asked.all, smoke=asked.smoke))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
