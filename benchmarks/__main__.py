"""Run all benchmarks (about 40 minutes on two cores), or those that are named.

    python -m benchmarks [--all] [NAME ...]

Each benchmark prints a table and writes `benchmarks/results/<name>-<machine>.json`. Run nothing else in the meantime: the
file records the load that other processes caused. `--smoke` runs everything on a few images in a minute or two and writes
nothing. Three run only when they are named: `gpu`, which is for a machine with a GPU, `cluster`, which needs Ray, and `repro`,
the whole demo from nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import (
    cluster,
    encoder,
    evaluate,
    evaluator,
    gpu,
    inputs,
    loader,
    maps,
    memory,
    network,
    nouns,
    regions,
    repro,
    score,
    segment,
    starts,
    train,
)
from benchmarks.results import Benchmark, Options, measure
from ovseg.engine.process import end_process

BENCHMARKS: dict[str, Benchmark] = {
    "starts": starts.run,
    "encoder": encoder.run,
    "score": score.run,
    "nouns": nouns.run,
    "memory": memory.run,
    "train": train.run,
    "loader": loader.run,
    "maps": maps.run,
    "network": network.run,
    "segment": segment.run,
    "regions": regions.run,
    "evaluate": evaluate.run,
    "evaluator": evaluator.run,
    "cluster": cluster.run,
    "gpu": gpu.run,
    "repro": repro.run,
}
BY_DEFAULT = [name for name in BENCHMARKS if name not in ("cluster", "gpu", "repro")]


def main() -> int:
    """Run the benchmarks; the exit code is 0 if every target is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=inputs.HELP)
    default = "default: all but cluster, gpu and repro"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; {default}")
    parser.add_argument("--all", action="store_true", help="score: also measure fp32; encoder: also torch.compile")
    parser.add_argument("--smoke", "--tiny", action="store_true", help="tiny sizes, to check that it runs; no results")
    parser.add_argument("--device", default="auto", help="gpu: the torch device, such as cpu or cuda:1")
    parser.add_argument("--out", type=Path, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    met = True
    for name in arguments.names or BY_DEFAULT:
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
            options = Options(Path(folder), arguments.all, arguments.smoke, arguments.device, arguments.out)
            met &= measure(name, BENCHMARKS[name], options)
    return 0 if met else 1


if __name__ == "__main__":
    end_process(main())
