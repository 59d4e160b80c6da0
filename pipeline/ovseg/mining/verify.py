"""Verification of shards: checksums, whether every sample can be read, and whether counts agree."""

from __future__ import annotations

import json
from pathlib import Path

from ovseg.core import hashing, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.remote_files import is_file
from ovseg.core.samples import decode_sample, raw_samples
from ovseg.mining.shards import NOUNS, SIZES


def shards_folder(run: Path) -> Path:
    """Return the folder of shards of a run: `run/shards`, or `run` itself.

    Raises:
        OvsegError: neither has finished shards.
    """
    for folder in (run / "shards", run):
        if is_file(folder / SIZES):
            return folder
    raise OvsegError(f"{run} has no finished shards (no {SIZES}); run `ovseg-mine run` or `ovseg-mine shards` first")


def verify_shards(run: Path) -> str:
    """Verify all shards of a run.

    Args:
        run: folder of a run, or of its shards.

    Returns:
        a line about what was verified.

    Raises:
        OvsegError: a file is missing or changed, a sample cannot be read, or counts do not agree; the message names all.
    """
    folder = shards_folder(run)
    _raise_problems(folder, _check_files(folder))
    sizes: dict[str, int] = json.loads((folder / SIZES).read_text(encoding="utf-8"))
    noun_ids: dict[str, int] = json.loads((folder / NOUNS).read_text(encoding="utf-8"))
    keys: set[str] = set()
    problems = [
        problem for name, size in sizes.items() for problem in _check_shard(folder / name, size, noun_ids, keys)
    ]
    _raise_problems(folder, problems)
    return f"{folder}: {len(sizes)} shards, {len(keys):,} samples, {len(noun_ids):,} nouns: all sound"


def _check_files(folder: Path) -> list[str]:
    """Compare every file with its sha256 in the manifest of the step."""
    recorded: dict[str, str] = tables.read_step_manifest(folder).get("files", {})
    problems = (
        [] if recorded else [f"{tables.STEP_MANIFEST}, which has the sha256 of every file, is missing or damaged"]
    )
    surplus = {path.name for path in folder.glob("*.tar")} - set(recorded) if recorded else set()
    problems += [f"{name} does not belong to the run: it was not written with the others" for name in sorted(surplus)]
    for name, digest in recorded.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif hashing.sha256_file(folder / name) != digest:
            problems.append(
                f"{name} has changed since it was written: its sha256 is not the one in {tables.STEP_MANIFEST}"
            )
    return problems


def _raise_problems(folder: Path, problems: list[str]) -> None:
    if problems:
        raise OvsegError(
            f"{folder} is damaged:\n  " + "\n  ".join(problems) + "\nRun the command that wrote it again to repair it"
        )


def _check_shard(path: Path, size: int, noun_ids: dict[str, int], keys: set[str]) -> list[str]:
    problems, read_keys = [], []
    for raw in raw_samples(path):
        key = raw["__key__"]
        try:
            sample = decode_sample(raw)
        except BadItem as problem:
            problems.append(f"{path.name}: {problem}")
            continue
        if not sample.mask.any():
            problems.append(f"{path.name}: sample {key} has an empty mask")
        if noun_ids.get(sample.record["noun"]) != sample.record["noun_id"]:
            problems.append(f"{path.name}: sample {key} has another noun_id than in {NOUNS}")
        if key in keys:
            problems.append(f"{path.name}: the key {key} occurs twice in the set")
        keys.add(key)
        read_keys.append(key)
    rows = tables.read_part(path.with_suffix(".parquet"), "samples", ["key", "status"]).to_pylist()
    listed = [row["key"] for row in rows if row["status"] == "ok"]
    if read_keys != listed or len(read_keys) != size:
        problems.append(f"{path.name}: {len(read_keys)} samples, {len(listed)} in its table, {size} in {SIZES}")
    return problems
