"""Stage `evaluate`: one benchmark, its name on the command line; DVC runs it for each of evaluate.benchmarks."""

import sys
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.params import Params
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.benchmark_report import write_benchmark_report
from ovseg.evaluation.calibrate import Choice, labelled, read_choice
from ovseg.evaluation.evaluate import evaluate, three_classifiers
from stages._evaluate import MODELS, NETWORK, options
from stages._run import run_stage


def main(params: Params) -> None:
    """Read sections evaluate and segment, write data/evaluate/NAME and reports/evaluate/NAME."""
    name = sys.argv[1]
    benchmark, out = Path(params.evaluate.folder) / name, Path("data/evaluate") / name
    given = {"mask_threshold": params.evaluate.mask_threshold, "weight": params.evaluate.weight}
    choices: dict[str, Choice] = {
        model: read_choice(Path("reports/calibrate"), model, **given) for model in params.evaluate.models
    }
    counts = evaluate(
        benchmark,
        NETWORK,
        {model: MODELS / model for model in choices},
        out,
        from_environment(),
        ways={model: three_classifiers(choice.mask_threshold, choice.weight) for model, choice in choices.items()},
        limit=params.evaluate.limit,
        **options(params),
    )
    opened = read_benchmark(benchmark)
    said = {model: labelled(choice, opened) for model, choice in choices.items()}
    write_benchmark_report(out, opened, Path("reports/evaluate") / name, said)
    dropped = {reason: number for reason, number in counts.items() if reason.startswith("dropped.")}
    if dropped and params.evaluate.missing == "error":
        reasons = ", ".join(f"{number} {reason[8:]}" for reason, number in dropped.items())
        raise OvsegError(
            f"{benchmark}: {reasons}; named in {out / 'failures'}. Mend them, or set evaluate.missing=allow to score the rest"
        )


if __name__ == "__main__":
    run_stage(main)
