"""The two tables of `experiments.one_pass`: what each change gives, and what a mix of two encoders gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.methods_table import BENCHMARKS, percent
from experiments.tables import Results
from ovseg.report.metric_tables import markdown

Sizes = Mapping[str, Mapping[str, float]]
"""The "masks" and the "mask_accuracy" of each size, the smallest first."""


def tables_of(results: Results, crops: str, base: str) -> str:
    """Return both tables, one below the other; the second as soon as `crops` and `base` have figures.

    Args:
        results: the stored figures.
        crops: the row of finetuned crops.
        base: the row of one pass that the others change.
    """
    tables = [change_table(results)]
    if crops in results and base in results:
        best = max((row for row in results if row != crops), key=lambda row: _accuracy(results, row))
        sizes = {row: _first(results, row)["by_size"] for row in dict.fromkeys((crops, base, best))}
        tables.append(mix_table(sizes))
    return "\n\n".join(tables)


def change_table(results: Results) -> str:
    """Return mask accuracy and mIoU in percent of every row; what is not known yet is empty."""
    groups = ("all", "annotated", "not annotated")
    header = ["", *groups, *(f"mIoU {name}" for name in BENCHMARKS), "GFLOPs", "steps"]
    rows = []
    for row, by_seed in results.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        evaluated = [run["benchmarks"] for run in runs if "benchmarks" in run]
        rows.append(
            [
                row,
                *(percent([run["mask_accuracy"][group] for run in runs]) for group in groups),
                *(percent([run[name]["miou"] for run in evaluated]) if evaluated else "" for name in BENCHMARKS),
                f"{runs[0]['gflops']:.1f}",
                str(runs[0]["steps"]),
            ]
        )
    return markdown([header, *rows])


def mix_table(sizes: Mapping[str, Sizes]) -> str:
    """Return a row for each size: the accuracy of each encoder, and with crops up to this size and one pass for the rest.

    Args:
        sizes: the accuracies of crops, then those of encoders of one pass, by name.
    """
    (crops, of_crops), *others = sizes.items()
    total = sum(group["masks"] for group in of_crops.values())
    header = ["patches of a mask", "masks", crops, *(row for row, _ in others)]
    header += ["through crops", *(f"crops up to here, then {row}" for row, _ in others)]
    rows = []
    for number, (name, group) in enumerate(of_crops.items(), 1):
        through = sum(_masks(of_crops, 0, number))
        mixed = [(_correct(of_crops, 0, number) + _correct(other, number, None)) / total for _, other in others]
        accuracies = [group["mask_accuracy"], *(other[name]["mask_accuracy"] for _, other in others)]
        rows.append(
            [
                name,
                f"{group['masks']:,.0f}",
                *(percent([value]) for value in accuracies),
                f"{100 * through / total:.0f}%",
                *(percent([value]) for value in mixed),
            ]
        )
    whole = [_correct(groups, 0, None) / total for groups in sizes.values()]
    rows.append(["all", f"{total:,.0f}", *(percent([value]) for value in whole), *[""] * (1 + len(others))])
    return markdown([header, *rows])


def _first(results: Results, row: str) -> Mapping[str, Any]:
    return results[row][min(results[row])]


def _accuracy(results: Results, row: str) -> float:
    return float(_first(results, row)["mask_accuracy"]["all"])


def _masks(sizes: Sizes, begin: int, end: int | None) -> Sequence[float]:
    return [group["masks"] for group in list(sizes.values())[begin:end]]


def _correct(sizes: Sizes, begin: int, end: int | None) -> float:
    """The number of correct masks in some of the sizes."""
    return sum(group["masks"] * group["mask_accuracy"] for group in list(sizes.values())[begin:end])
