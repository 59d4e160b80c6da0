"""What the steps of mining kept and dropped, in one dict for reports/metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg.core import tables
from ovseg.core.errors import OvsegError

FOLDERS = {
    "index": "index",
    "nouns": "nouns",
    "propose": "proposals",
    "score": "candidates",
    "select": "pairs",
    "shards": "shards",
}
"""The steps of mining in order, and the name of the folder that each writes."""
DROPPED = "dropped."
COUNTS = {  # name in metrics.json: the step and the name of its count
    "images": ("index", "images"),
    "captions": ("index", "captions"),
    "nouns": ("nouns", "nouns"),
    "proposals": ("propose", "proposals"),
    "pairs": ("select", "pairs"),
    "samples": ("shards", "samples"),
}
ORDER = ("images", "captions", "nouns", "unique_nouns", "proposals", "candidates", "pairs", "samples")


def collect_counts(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Collect the counts of all steps.

    Args:
        folders: the folder of each step, by the name of the step (see `FOLDERS`); steps that did not run may be missing.

    Returns:
        the numbers of "images", "captions", "nouns", "unique_nouns", "proposals", "candidates", "pairs" and "samples", as far
        as the steps are given; and "dropped": {"<step>.<reason>": number}.

    Raises:
        OvsegError: a name is not the name of a step.
    """
    unknown = sorted(set(folders) - set(FOLDERS))
    if unknown:
        raise OvsegError(f"{', '.join(unknown)}: not a step of mining; the steps are {', '.join(FOLDERS)}")
    counts = {step: tables.read_counts(folders[step]) for step in FOLDERS if step in folders}
    collected = {name: counts[step][key] for name, (step, key) in COUNTS.items() if key in counts.get(step, {})}
    if "nouns" in folders:
        nouns = tables.read(folders["nouns"], "nouns", ["noun"])["noun"]
        collected["unique_nouns"] = pc.count_distinct(nouns).as_py()
    if "score" in folders:
        collected["candidates"] = sum(
            pq.read_metadata(tables.open_part(path)).num_rows for path in tables.parts(folders["score"])
        )
    dropped = {
        f"{step}.{name.removeprefix(DROPPED)}": number
        for step, step_counts in counts.items()
        for name, number in step_counts.items()
        if name.startswith(DROPPED)
    }
    return {**{name: collected[name] for name in ORDER if name in collected}, "dropped": dropped}
