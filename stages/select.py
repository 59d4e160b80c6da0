"""Stage `select`: which candidates become pairs."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.mining.select import select_pairs
from stages._run import run_stage


def main(params: Params) -> None:
    """Read section select, write data/pairs."""
    select_pairs(
        Path("data/candidates"),
        Path("data/proposals"),
        Path("data/pairs"),
        from_environment(),
        rule=params.select.rule,
        min_similarity=params.select.min_similarity,
        min_margin=params.select.min_margin,
        min_area=params.select.min_area,
        max_per_noun=params.select.max_per_noun,
        annotated_fraction=params.select.annotated_fraction,
        seed=params.select.seed,
    )


if __name__ == "__main__":
    run_stage(main)
