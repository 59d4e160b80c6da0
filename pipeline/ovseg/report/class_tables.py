"""The classes that a run segments worst, with what they are taken for, as a table of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ovseg.report.failures import Mistake
from ovseg.report.metric_tables import Section

NUM_CLASSES = 12
TEXT = (
    "The classes with ground truth and the lowest IoU by the ensemble of {last}. In percent: their share of the ground truth's "
    "pixels, and their IoU by each model; then the wrong class that {last} predicts most for their pixels, and for how many."
)


def worst_classes(rows: Sequence[Mapping[str, str]], model: str, number: int = NUM_CLASSES) -> list[int]:
    """Return the numbers of the classes with ground truth and the lowest IoU, the lowest first, of equal ones the largest.

    Args:
        rows: the rows of a benchmark's classes.tsv, one for each class.
        model: the name of the model whose ensemble counts.
        number: the largest number of classes.
    """
    in_gt = [i for i, row in enumerate(rows) if int(row["gt_pixels"])]
    return sorted(in_gt, key=lambda i: (float(rows[i][f"{model}/ensemble"]), -int(rows[i]["gt_pixels"])))[:number]


def worst_classes_section(
    rows: Sequence[Mapping[str, str]], benchmark: str, models: Sequence[str], mistakes: Mapping[int, Mistake]
) -> Section:
    """Return the worst classes as a table.

    Args:
        rows: the rows of the benchmark's classes.tsv.
        benchmark: the name of the benchmark.
        models: the names of the models, the result last.
        mistakes: what each class is predicted as most, see `failures.class_mistakes`.
    """
    total = sum(int(row["gt_pixels"]) for row in rows)
    cells = [["class", "seen", "pixels", *models, "most predicted as"]]
    for number in worst_classes(rows, models[-1]):
        row, mistake = rows[number], mistakes.get(number)
        taken_for = f"{mistake.pred} ({mistake.fraction:.0%})" if mistake else ""
        ious = [f"{100 * float(row[f'{model}/ensemble']):.1f}" for model in models]
        cells.append([row["class"], row["seen"], f"{100 * int(row['gt_pixels']) / total:.2f}", *ious, taken_for])
    return Section(f"Worst classes of benchmark {benchmark}", TEXT.format(last=models[-1]), cells)
