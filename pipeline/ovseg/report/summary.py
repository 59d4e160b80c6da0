"""Runs in words: what `ovseg-mine run` says at its end, what `ovseg-mine inspect` shows, what metrics.json counts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.samples import sample_key
from ovseg.report.plots import commonest
from ovseg.report.sampling import Row, index_rows, read_pairs, sample, similarities, split_caption

FOLDERS = {
    "index": "index",
    "nouns": "nouns",
    "propose": "proposals",
    "score": "candidates",
    "select": "pairs",
    "shards": "shards",
}
COUNTED = {  # name in metrics.json: step and name of its count
    "images": ("index", "images"),
    "captions": ("index", "captions"),
    "nouns": ("nouns", "nouns"),
    "proposals": ("propose", "proposals"),
    "pairs": ("select", "pairs"),
    "samples": ("shards", "samples"),
}
DROPPED = "dropped."
COMMONEST = 20
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def summarise(counts: Mapping[str, Mapping[str, int]], out: Path) -> str:
    """The end of `ovseg-mine run`: what each step kept and dropped, where the output is, and what to do next.

    Args:
        counts: of each step by its name, in order; "dropped.<reason>" or a name of what was kept.
        out: the run's folder.
    """
    run = shlex.quote(str(out))
    steps = [
        (f"ovseg-mine verify {run}", "check every sample"),
        (f"ovseg-mine inspect {run}", "counts and some pairs, here in the terminal"),
        (shlex.quote(str(out / "pairs.html")), "look at pairs in a browser, the worst first"),
    ]
    shards = counts.get("shards", {})
    said = f"{shards['samples']:,} samples" if "samples" in shards else "Shards"
    return f"{_steps(counts)}\n\n{said} in {out / 'shards'}\n\nNext:\n{_indent(_table(steps))}"


def describe(run: Path, noun: str | None, number: int) -> str:
    """What is in a run: counts, the commonest nouns, similarity quantiles, and some pairs, the best first.

    Args:
        run: a run's folder, or its shards folder.
        noun: only pairs of this noun; None for all.
        number: how many pairs to show, spread over the similarity range.

    Raises:
        OvsegError: if `run` is not a run's folder, or no pair has the noun.
    """
    folder = _run_folder(run)
    every = read_pairs(folder / "pairs")
    counts = {step: tables.read_counts(folder / name) for step, name in FOLDERS.items() if (folder / name).is_dir()}
    nouns = commonest(every, COMMONEST)
    parts = [
        _steps(counts),
        f"Commonest of {pc.count_distinct(every['noun']).as_py():,} nouns:\n"
        + _indent(_table([(name, f"{n:,}") for name, n in nouns], right={1})),
    ]
    chosen = every if noun is None else read_pairs(folder / "pairs", _known(noun, every))
    of = "" if noun is None else f" of {noun.strip().lower()!r}"
    parts.append(f"Similarity of {chosen.num_rows:,} pairs{of}:\n{_indent(_quantiles(similarities(chosen)))}")
    rows = sorted(sample(chosen, number), key=_worst_last)
    parts.append(f"{len(rows):,} of {chosen.num_rows:,} pairs{of}, the best first:\n{_indent(_pairs(rows, folder))}")
    return "\n\n".join(parts)


def collect(folders: Mapping[str, Path]) -> dict[str, Any]:
    """The counts of all steps in one, for reports/metrics.json.

    Args:
        folders: what a step wrote, by the step's name: "index", "nouns", "propose", "score", "select", "shards". Steps
            that were not run may be missing.

    Returns:
        "images", "captions", "nouns", "unique_nouns", "proposals", "candidates", "pairs", "samples", as far as their
        steps are there, and "dropped": {"<step>.<reason>": number}.

    Raises:
        OvsegError: if a name is not a step's.
    """
    unknown = sorted(set(folders) - set(FOLDERS))
    if unknown:
        raise OvsegError(f"{', '.join(unknown)}: not a step of mining; the steps are {', '.join(FOLDERS)}")
    counts = {step: tables.read_counts(folders[step]) for step in FOLDERS if step in folders}
    found = {name: counts[step][key] for name, (step, key) in COUNTED.items() if key in counts.get(step, {})}
    if "nouns" in folders:
        found["unique_nouns"] = pc.count_distinct(tables.read(folders["nouns"], "nouns", ["noun"])["noun"]).as_py()
    if "score" in folders:
        found["candidates"] = sum(pq.read_metadata(path).num_rows for path in tables.parts(folders["score"]))
    dropped = {
        f"{step}.{name.removeprefix(DROPPED)}": n
        for step, of_step in counts.items()
        for name, n in of_step.items()
        if name.startswith(DROPPED)
    }
    order = ("images", "captions", "nouns", "unique_nouns", "proposals", "candidates", "pairs", "samples")
    return {**{name: found[name] for name in order if name in found}, "dropped": dropped}


def _run_folder(run: Path) -> Path:
    folder = run.absolute().parent if run.absolute().name == "shards" else run
    missing = [name for name in ("index", "pairs") if not (folder / name).is_dir()]
    if missing:
        raise OvsegError(
            f"{folder} is not the folder of a run: it has no {' and no '.join(missing)}. Give the --out of an "
            "`ovseg-mine run`"
        )
    return folder


def _worst_last(pair: Row) -> tuple[bool, float]:
    return pair["similarity"] is None, -(pair["similarity"] or 0.0)


def _known(noun: str, pairs: Any) -> str:
    """The noun as it stands in the pairs, or an error that names the nearest ones."""
    wanted, nouns = noun.strip().lower(), pc.unique(pairs["noun"]).to_pylist()
    if wanted in nouns:
        return wanted
    near = get_close_matches(wanted, nouns, n=5) or [name for name, _ in commonest(pairs, 5)]
    raise OvsegError(f"no pair has the noun {wanted!r}; there are, for instance: {', '.join(near)}")


def _steps(counts: Mapping[str, Mapping[str, int]]) -> str:
    rows = [("step", "kept", "dropped")]
    for step, of_step in counts.items():
        kept = {name: n for name, n in of_step.items() if not name.startswith(DROPPED)}
        dropped = {name.removeprefix(DROPPED): n for name, n in of_step.items() if name.startswith(DROPPED)}
        rows.append((step, _words(kept), _words(dropped)))
    return _table(rows)


def _words(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in ordered if n) or "-"


def _quantiles(values: Any) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "none: annotated pairs have no similarity"
    names = ["least" if q == 0 else "greatest" if q == 1 else f"{q:.0%}" for q in QUANTILES]
    found = [f"{value:.3f}" for value in np.quantile(known, QUANTILES)]
    return _table([names, found], right=set(range(len(names))))


def _pairs(pairs: list[Row], folder: Path) -> str:
    images = index_rows(folder / "index", pairs)
    rows: list[Sequence[str]] = [("key", "noun", "similarity", "margin", "area", "image", "caption")]
    for pair in pairs:
        image = images[pair["image_id"]]
        before, marked, after = split_caption(pair, image)
        caption = f"{before}[{marked}]{after}" if marked else "-"
        share = pair["area"] / (image["width"] * image["height"])
        area = "<0.1%" if share < 0.001 else f"{share:.1%}"
        numbers = ["-" if v is None else f"{v:.3f}" for v in (pair["similarity"], pair["margin"])]
        row = (sample_key(pair["pair"]), pair["noun"], *numbers, area, str(pair["image_id"]), _one_line(caption))
        rows.append(row)
    return _table(rows, right={2, 3, 4, 5})


def _one_line(text: str) -> str:
    """Text that cannot break the table or steer the terminal: a caption may hold anything."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _table(rows: Sequence[Sequence[str]], right: Set[int] = frozenset()) -> str:
    """Rows with aligned columns; those numbered in `right` on the right side."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (row[i].rjust(width) if i in right else row[i].ljust(width) for i, width in enumerate(widths))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
