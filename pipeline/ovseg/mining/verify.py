"""Checking a set of shards: checksums, every sample opens, counts agree."""

from __future__ import annotations

import json
from pathlib import Path

import webdataset as wds

from ovseg.core import hashing, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.samples import decode_sample
from ovseg.mining.shards import NOUNS, SIZES


def shards_folder(run: Path) -> Path:
    """The shards of a run: `run/shards`, or `run` itself.

    Raises:
        OvsegError: if there are none.
    """
    for folder in (run / "shards", run):
        if (folder / SIZES).is_file():
            return folder
    raise OvsegError(f"{run} holds no finished shards (no {SIZES}); run `ovseg-mine run` or `ovseg-mine shards` first")


def verify_shards(run: Path) -> str:
    """Check all shards of a run.

    Returns:
        one line of what was checked.

    Raises:
        OvsegError: naming every file that is missing, changed, does not open, or does not agree with the tables.
    """
    folder = shards_folder(run)
    _refuse(folder, _check_files(folder))
    sizes: dict[str, int] = json.loads((folder / SIZES).read_text(encoding="utf-8"))
    noun_ids: dict[str, int] = json.loads((folder / NOUNS).read_text(encoding="utf-8"))
    keys: set[str] = set()
    _refuse(folder, [found for name, n in sizes.items() for found in _check_shard(folder / name, n, noun_ids, keys)])
    return f"{folder}: {len(sizes)} shards, {len(keys):,} samples, {len(noun_ids):,} nouns: all sound"


def _check_files(folder: Path) -> list[str]:
    """Every file against the sha256 that was noted when it was written."""
    noted: dict[str, str] = tables.read_step_manifest(folder).get("files", {})
    problems = [] if noted else [f"{tables.STEP_MANIFEST} is missing or damaged: it holds the sha256 of every file"]
    surplus = {path.name for path in folder.glob("*.tar")} - set(noted) if noted else set()
    problems += [f"{name} is too much: it was not written with the others" for name in sorted(surplus)]
    for name, digest in noted.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif hashing.sha256_file(folder / name) != digest:
            problems.append(f"{name} is not the file that was written: its sha256 differs from {tables.STEP_MANIFEST}")
    return problems


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise OvsegError(
            f"{folder} is not sound:\n  " + "\n  ".join(problems) + "\nRun the same command again to mend it"
        )


def _check_shard(path: Path, size: int, noun_ids: dict[str, int], keys: set[str]) -> list[str]:
    problems = []
    found = []
    for raw in wds.WebDataset(str(path), shardshuffle=False, empty_check=False):
        key = raw["__key__"]
        try:
            sample = decode_sample(raw)
        except BadItem as problem:
            problems.append(f"{path.name}: {problem}")
            continue
        if not sample.mask.any():
            problems.append(f"{path.name}: sample {key} has an empty mask")
        if noun_ids.get(sample.record["noun"]) != sample.record["noun_id"]:
            problems.append(f"{path.name}: sample {key} has another noun_id than {NOUNS}")
        if key in keys:
            problems.append(f"{path.name}: key {key} stands in the set twice")
        keys.add(key)
        found.append(key)
    rows = tables.read_part(path.with_suffix(".parquet"), "samples", ["key", "status"]).to_pylist()
    listed = [row["key"] for row in rows if row["status"] == "ok"]
    if found != listed or len(found) != size:
        problems.append(f"{path.name}: {len(found)} samples, {len(listed)} in its table, {size} in {SIZES}")
    return problems
