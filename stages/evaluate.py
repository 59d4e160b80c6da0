"""Stage `evaluate`: one benchmark, whose name is on the command line; DVC runs it for each of evaluate.benchmarks."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.evaluation.benchmark_report import evaluate_benchmark
from stages._run import run_stage


def main(params: Params, name: str) -> None:
    """Read the sections evaluate, segment and crop; write data/evaluate/NAME and reports/evaluate/NAME."""
    evaluate_benchmark(
        params.evaluate.folder / name,
        Path("models/proposal_network"),
        {model: Path("models") / model for model in params.evaluate.models},
        Path("reports/calibrate"),
        Path("data/evaluate") / name,
        Path("reports/evaluate") / name,
        from_environment(params.checks.max_dropped),
        options=params.segment,
        crop=params.crop,
        mask_threshold=params.evaluate.mask_threshold,
        weight=params.evaluate.weight,
        limit=params.evaluate.limit,
        missing=params.evaluate.missing,
        embeddings=Path("data/regions/benchmarks") / name,
    )


if __name__ == "__main__":
    run_stage(main, "BENCHMARK")
