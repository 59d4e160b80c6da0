"""Units of work that survive a kill: done once, checked when found again, published in one step.

DVC deletes outputs before a stage runs, so unfinished work lives outside them, in `$OVSEG_WORK` (default: the user's
cache), in a folder named after the step and the fingerprint of all that its result depends on, our code included:

    score-1f0c.../00042.parquet       the result of unit 00042, whole or absent
    score-1f0c.../00042.done.json     written last: counts, and the sha256 of each of its files

The same command continues where a killed one stopped; another parameter has another fingerprint and starts anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError, explain_full_disk
from ovseg.core.files import link_or_copy, replace_folder, sync, write_json

Counts = Mapping[str, int]
Task = Callable[[str, Path], Counts]
"""Does one unit: (name, empty folder to write its files into) -> what it kept and dropped, by name."""
TaskFactory = Callable[[], Task]
"""Makes a Task inside the process that runs it: loads models, opens files. Picklable."""

PUBLISHED = "published"
LOCK = "lock"


class Scratch:
    """The folder of one step's finished units. At most one run works in it at a time."""

    def __init__(self, work: Path, step: str, key: str, fresh: bool = False) -> None:
        self.folder = scratch_folder(work, step, key)
        self.key = key
        _forget_published(work, step, keep=self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        for path in self.folder.iterdir():
            if path.name != LOCK and (fresh or path.name.endswith(".tmp")):  # a killed run leaves *.tmp
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def counts(self, unit: str) -> dict[str, int] | None:
        """What a finished unit kept and dropped; None if it is not finished or its files are not as written."""
        try:
            mark = json.loads((self.folder / f"{unit}.done.json").read_text(encoding="utf-8"))
            good = all(hashing.sha256_file(self.folder / name) == sha for name, sha in mark["files"].items())
        except (OSError, ValueError, KeyError):
            return None
        return dict(mark["counts"]) if good else None

    def publish(
        self, units: Sequence[str], out: Path, counts: Counts, finish: Callable[[Path], None] | None = None
    ) -> None:
        """Put the files of all units and `step.json` into `out`, replacing it in one step (hard links where possible)."""
        with explain_full_disk(out):
            self._publish(units, out, counts, finish)
        (self.folder / PUBLISHED).touch()

    def _publish(
        self, units: Sequence[str], out: Path, counts: Counts, finish: Callable[[Path], None] | None = None
    ) -> None:
        staged = out.with_name(out.name + ".tmp")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for unit in units:
            mark = json.loads((self.folder / f"{unit}.done.json").read_text(encoding="utf-8"))
            for name in mark["files"]:
                target = staged / "failures" / f"{unit}.parquet" if ".failures." in name else staged / name
                target.parent.mkdir(exist_ok=True)
                link_or_copy(self.folder / name, target)
        if finish:
            finish(staged)
        files = {str(p.relative_to(staged)): hashing.sha256_file(p) for p in sorted(staged.rglob("*")) if p.is_file()}
        account = {"fingerprint": self.key, "counts": dict(sorted(counts.items())), "files": files}
        write_json(staged / tables.STEP_MANIFEST, account)
        replace_folder(staged, out)

    def close(self) -> None:
        """Let another run work here."""
        self._lock.close()


def published(out: Path, key: str) -> dict[str, int] | None:
    """The counts of a step that was published to `out` before and is still whole; None if `out` is free to be written.

    Raises:
        OvsegError: `out` holds something else, or the result of other parameters or inputs: it is never replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    account = tables.read_step_manifest(out)
    if not account:
        raise OvsegError(f"{out} exists and was not written by ovseg; give another output folder, or remove it")
    if account["fingerprint"] != key:
        raise OvsegError(
            f"{out} belongs to another run: its fingerprint is {account['fingerprint']}, this run's is {key} (other "
            "parameters, inputs or model). Give another output folder, or remove that one"
        )
    whole = all(
        (out / name).is_file() and hashing.sha256_file(out / name) == sha for name, sha in account["files"].items()
    )
    return dict(account["counts"]) if whole else None


def commit(folder: Path, unit: str, task: Task) -> dict[str, int]:
    """Run one unit and make its result durable: files first, the done mark last.

    Raises:
        OvsegError: if the disk is full; everything finished before is kept.
    """
    begun = folder / f"{unit}.{os.getpid()}.tmp"  # a worker that outlives its killed run writes elsewhere
    with explain_full_disk(folder):
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir()
        counts = dict(task(unit, begun))
        files = {}
        for path in sorted(begun.iterdir()):
            files[path.name] = hashing.sha256_file(path)
            sync(path)
            path.replace(folder / path.name)
        begun.rmdir()
        write_json(folder / f"{unit}.done.json", {"counts": counts, "files": files})
    return counts


def total(counts: Sequence[Counts]) -> dict[str, int]:
    """Counts of all units added up."""
    added: Counter[str] = Counter()
    for one in counts:
        added.update(one)
    return dict(added)


def scratch_folder(work: Path, step: str, key: str) -> Path:
    """Where the unfinished work of a step lies; other code has another folder, as it may give another result."""
    return work / f"{step}-{hashing.fingerprint(key=key, code=hashing.sha256_code())}"


def work_folder() -> Path:
    """Where unfinished work lives: `$OVSEG_WORK`, or `ovseg/work` in the user's cache; always absolute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("OVSEG_WORK") or cache / "ovseg" / "work").absolute()


def _lock(folder: Path) -> TextIO:
    """Hold the folder; the lock goes with the file, and so with the process, however that ends."""
    file = (folder / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OvsegError(
            f"another run is working in {folder}; wait for it, or set OVSEG_WORK to another folder"
        ) from None
    return file


def _forget_published(work: Path, step: str, keep: Path) -> None:
    """Scratch folders of earlier runs whose results are published are no longer needed by anyone."""
    for path in work.glob(f"{step}-*/{PUBLISHED}"):
        if path.parent != keep:
            with contextlib.suppress(OvsegError), _lock(path.parent):
                shutil.rmtree(path.parent, ignore_errors=True)


def unit_names(folder: Path) -> Iterator[str]:
    """The units of a step that follows a table: one for each of its parts."""
    return (path.stem for path in tables.parts(folder))
