"""Texts about a mining run for the terminal: the end of `ovseg-mine run`, and `ovseg-mine inspect`."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.samples import sample_key
from ovseg.report.counts import DROPPED, FOLDERS
from ovseg.report.plots import most_common_nouns
from ovseg.report.sampling import Row, read_index_rows, read_pairs, sample_pairs, similarities, split_caption

NUM_NOUNS = 20
WIDTH, MIN_ROOM, SPACE = 80, 20, "  "  # columns of a terminal; of its last cell; between two cells
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def summarize_run(counts: Mapping[str, Mapping[str, int]], out: Path) -> str:
    """Return the text at the end of `ovseg-mine run`: the counts of each step, the output folder, and what to do next.

    Args:
        counts: the counts of each step by its name, in order; "dropped.<reason>", or the name of what was kept.
        out: the folder of the run.
    """
    run = shlex.quote(str(out))
    next_steps = [
        (f"ovseg-mine verify {run}", "check every sample"),
        (f"ovseg-mine inspect {run}", "counts and some pairs"),
        (shlex.quote(str(out / "pairs.html")), "for a browser"),
    ]
    shards = counts.get("shards", {})
    samples = f"{shards['samples']:,} samples" if "samples" in shards else "Shards"
    return f"{_steps(counts)}\n\n{samples} in {out / 'shards'}\n\nNext:\n{_indent(_table(next_steps))}"


def summarize_report(metrics: Mapping[str, Any], models: Sequence[str], reports: Path) -> str:
    """Return the text at the end of the stage `report`: the mIoU of each model on each benchmark, and where to look.

    Args:
        metrics: the content of reports/metrics.json.
        models: the names of the models, the result last.
        reports: the folder of the reports.
    """
    benchmarks = metrics["benchmarks"]
    rows = [["mIoU", *models]]
    for name, by_model in benchmarks.items():
        rows.append([name, *(f"{by_model[model]['ensemble']['miou']:.1%}" for model in models)])
    precision = f", {metrics['pair_precision']:.1%} of them correct" if "pair_precision" in metrics else ""
    next_steps = [(str(reports / "index.html"), "the report"), (str(reports / "pairs.html"), "the mined pairs")]
    return (
        f"{metrics['pairs']:,} mined pairs{precision}\n\n{_table(rows, right=set(range(1, len(rows[0]))))}\n\n"
        f"Open in a browser:\n{_indent(_table(next_steps))}"
    )


def describe_run(run: Path, noun: str | None, number: int) -> str:
    """Describe a run: counts, the most common nouns, similarity quantiles, and some pairs, highest similarity first.

    Args:
        run: the folder of a run.
        noun: only the pairs of this noun; None for all pairs.
        number: the number of pairs to show, spread over the similarity range.

    Raises:
        OvsegError: `run` is not the folder of a run, or no pair has the noun.
    """
    _check_run(run)
    all_pairs = read_pairs(run / "pairs")
    counts = {step: tables.read_counts(run / name) for step, name in FOLDERS.items() if (run / name).is_dir()}
    nouns = most_common_nouns(all_pairs, NUM_NOUNS)
    parts = [
        _steps(counts),
        f"The most common of {pc.count_distinct(all_pairs['noun']).as_py():,} nouns:\n"
        + _indent(_table([(name, f"{n:,}") for name, n in nouns], right={1})),
    ]
    pairs = all_pairs if noun is None else read_pairs(run / "pairs", _check_noun(noun, all_pairs))
    of_noun = "" if noun is None else f" of {noun.strip().lower()!r}"
    parts.append(f"Similarity of {pairs.num_rows:,} pairs{of_noun}:\n{_indent(_quantiles(similarities(pairs)))}")
    rows = sorted(sample_pairs(pairs, number), key=_descending_similarity)
    title = f"{len(rows):,} of {pairs.num_rows:,} pairs{of_noun}, highest similarity first:"
    parts.append(f"{title}\n{_indent(_pairs(rows, run))}")
    return "\n\n".join(parts)


def _check_run(run: Path) -> None:
    missing = [name for name in ("index", "pairs") if not (run / name).is_dir()]
    if missing:
        raise OvsegError(
            f"{run} is not the folder of a run: it has no {' and no '.join(missing)}. Give the --out of an `ovseg-mine run`"
        )


def _descending_similarity(pair: Row) -> tuple[bool, float]:
    return pair["similarity"] is None, -(pair["similarity"] or 0.0)


def _check_noun(noun: str, pairs: pa.Table) -> str:
    """Return the noun as it is written in the pairs; an unknown one is an error that names similar nouns."""
    lowered, nouns = noun.strip().lower(), pc.unique(pairs["noun"]).to_pylist()
    if lowered in nouns:
        return lowered
    examples = get_close_matches(lowered, nouns, n=5) or [name for name, _ in most_common_nouns(pairs, 5)]
    raise OvsegError(f"no pair has the noun {lowered!r}; nouns of this run are for example {', '.join(examples)}")


def _steps(counts: Mapping[str, Mapping[str, int]]) -> str:
    rows = [("step", "kept", "dropped")]
    for step, step_counts in counts.items():
        kept = {name: n for name, n in step_counts.items() if not name.startswith(DROPPED)}
        dropped = {name.removeprefix(DROPPED): n for name, n in step_counts.items() if name.startswith(DROPPED)}
        rows.append((step, _join_counts(kept), _join_counts(dropped)))
    return _table(_wrap_last(rows))


def _wrap_last(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows whose table fits into `WIDTH` columns: a long last cell is continued in rows that are empty before it."""
    room = WIDTH - sum(max(map(len, column)) + len(SPACE) for column in list(zip(*rows, strict=True))[:-1])
    wrapped: list[tuple[str, ...]] = []
    for *cells, last in rows:
        first, *others = textwrap.wrap(last, max(room, MIN_ROOM))
        wrapped += [(*cells, first), *((*("" for _ in cells), other) for other in others)]
    return wrapped


def _join_counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in ordered if n) or "-"


def _quantiles(values: NDArray[np.float64]) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "none: annotated pairs have no similarity"
    header = ["minimum" if q == 0 else "maximum" if q == 1 else f"{q:.0%}" for q in QUANTILES]
    quantiles = [f"{value:.3f}" for value in np.quantile(finite, QUANTILES)]
    return _table([header, quantiles], right=set(range(len(header))))


def _pairs(pairs: list[Row], folder: Path) -> str:
    images = read_index_rows(folder / "index", pairs)
    rows: list[Sequence[str]] = [("key", "noun", "similarity", "margin", "area", "image")]
    captions = []
    for pair in pairs:
        image = images[pair["image_id"]]
        before, marked, after = split_caption(pair, image)
        caption = f"{before}[{marked}]{after}" if marked else ""
        fraction = pair["area"] / (image["width"] * image["height"])
        area = "<0.1%" if fraction < 0.001 else f"{fraction:.1%}"
        scores = ["-" if v is None else f"{v:.3f}" for v in (pair["similarity"], pair["margin"])]
        image_id = str(pair["image_id"])
        rows.append((sample_key(pair["pair"]), pair["noun"], *scores, area, image_id))
        captions.append(textwrap.wrap(_printable(caption), WIDTH - 2 * len(SPACE)))
    header, *lines = _table(rows, right={2, 3, 4, 5}).splitlines()
    texts = ["\n".join([line, *map(_indent, caption)]) for line, caption in zip(lines, captions, strict=True)]
    return "\n".join([header, *texts])


def _printable(text: str) -> str:
    """One line of text without control characters: a caption may contain anything, also terminal escapes."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _table(rows: Sequence[Sequence[str]], right: Set[int] = frozenset()) -> str:
    """Rows with aligned columns; the columns whose numbers are in `right` are right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (row[i].rjust(width) if i in right else row[i].ljust(width) for i, width in enumerate(widths))
        lines.append(SPACE.join(cells).rstrip())
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
