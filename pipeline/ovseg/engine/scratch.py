"""Scratch folders: the finished units of a step that is not published yet, and how they are published.

DVC deletes a stage's outputs before the stage runs, so scratch folders lie outside them: below `$OVSEG_WORK` (default: the
user's cache), in a folder that is named after the step and a hash of its key (see `engine.fingerprint`):

    score-1f0c.../00042.parquet       files of the finished units, see `engine.units`
    score-1f0c.../key.json            the key: its fingerprint, and the hash of each file of the code
    score-1f0c.../published           says that the units are published: complete in the output folder, with `step.json`

The same command continues where a killed one stopped. Changed parameters, inputs or code use a different folder. What other
code has left unfinished is said, used if that is asked for, and else deleted when the step is published.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.files import link_or_copy, replace_folder, write_json
from ovseg.core.paths import is_remote
from ovseg.core.remote_files import publish_folder
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.units import DONE, Counts, finished_counts

log = logging.getLogger("ovseg")

PUBLISHED_MARKER = "published"  # name of the file that says that the units of a scratch folder are published
KEY = "key.json"  # of the step that a scratch folder belongs to
LOCK = "lock"


class Scratch:
    """The folder of one step's finished units. At most one run works in it at a time.

    Args:
        work: the folder of the scratch folders.
        key: the key of the step.
        fresh: delete what an earlier run with the same key has finished.
        keyed_by_code: include the code hash in the folder's name. Trainings set it to False: they continue an unfinished
            training after a change of the code, but never reuse one that was published by different code.
        keep: use the units that a run with other code, and otherwise the same key, has finished and not published. The
            result counts as one of this code.

    Raises:
        OvsegError: another run is working in the folder, or it cannot be written to.
    """

    def __init__(
        self, work: Path, key: StepKey, fresh: bool = False, keyed_by_code: bool = True, keep: bool = False
    ) -> None:
        self.folder = scratch_folder(work, key, keyed_by_code)
        self.key = key
        with explain_write_errors(self.folder):
            _delete_stale_scratch(work, key.step, keep=self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            marker = self.folder / PUBLISHED_MARKER
            fresh = fresh or (marker.exists() and marker.read_text(encoding="utf-8") != key.code_hash)
            for path in self.folder.iterdir():
                if path.name != LOCK and (fresh or path.name.endswith(".tmp")):  # a killed run leaves *.tmp behind
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            write_json(self.folder / KEY, {"fingerprint": key.fingerprint, "code": dict(key.code)})
            for folder, code in self._unpublished_by_other_code():
                if not fresh and (units := [path.name.removesuffix(DONE) for path in folder.glob(f"*{DONE}")]):
                    self._adopt(folder, units, code) if keep else self._warn_of(folder, units, code)

    def _unpublished_by_other_code(self) -> Iterator[tuple[Path, Mapping[str, str]]]:
        """The scratch folders of the same step with the same fingerprint and other code, each with its code."""
        for folder in _folders_of(self.folder.parent, self.key.step):
            if folder != self.folder and not (folder / PUBLISHED_MARKER).exists():
                with contextlib.suppress(OSError, ValueError, KeyError):  # of an older version, or just begun
                    recorded = json.loads((folder / KEY).read_text(encoding="utf-8"))
                    if recorded["fingerprint"] == self.key.fingerprint:
                        yield folder, recorded["code"]

    def _adopt(self, folder: Path, units: Sequence[str], code: Mapping[str, str]) -> None:
        """Move finished units of another scratch folder here, unless a run is working there."""
        changes = self.key.describe_changes(code)
        with contextlib.suppress(OvsegError), _locked(folder):
            for unit in units:
                done = f"{unit}{DONE}"
                if finished_counts(folder, unit) is not None and not (self.folder / done).exists():
                    for name in [*json.loads((folder / done).read_text(encoding="utf-8"))["files"], done]:
                        (folder / name).replace(self.folder / name)
            log.warning("%s: finished units are kept, although the code has changed since (%s)", self.key.step, changes)

    def _warn_of(self, folder: Path, units: Sequence[str], code: Mapping[str, str]) -> None:
        log.warning(
            "%s: the code has changed since %d units were finished (%s); doing them again. To keep them, stop this run and "
            "repeat it with the option --keep of ovseg-mine: when the step is done, %s is deleted",
            self.key.step,
            len(units),
            self.key.describe_changes(code),
            folder,
        )

    def counts(self, unit: str) -> dict[str, int] | None:
        """Return the counts of a finished unit; None if it is not finished or its files are not as they were written."""
        return finished_counts(self.folder, unit)

    def forget(self, unit: str) -> None:
        """Remove the done mark of a unit, so that it is done again."""
        (self.folder / f"{unit}{DONE}").unlink(missing_ok=True)

    def publish(
        self, units: Sequence[str], out: Path, counts: Counts, finish: Callable[[Path], None] | None = None
    ) -> None:
        """Put the files of all units and `step.json` into `out`, replacing it in one step, by hard links where possible.

        In object storage the files are written one after the other, and `step.json` last.

        Args:
            units: names of the finished units.
            out: the output folder.
            counts: the counts of all units together.
            finish: completes the staged folder (files about all units) before it replaces `out`.

        Raises:
            OvsegError: the disk is full; finished units are kept.
        """
        with explain_write_errors(out):
            out = out if is_remote(out) else out.resolve()  # a link stays, and the folder that it leads to is replaced
            staged = self.folder / f"{out.name}.tmp" if is_remote(out) else out.with_name(out.name + ".tmp")
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            for unit in units:
                mark = json.loads((self.folder / f"{unit}{DONE}").read_text(encoding="utf-8"))
                for name in mark["files"]:
                    target = staged / _published_path(name)
                    target.parent.mkdir(exist_ok=True)
                    link_or_copy(self.folder / name, target)
            if finish:
                finish(staged)
            paths = sorted(path for path in staged.rglob("*") if path.is_file())
            manifest = {
                "fingerprint": self.key.fingerprint,
                "code": dict(self.key.code),
                "counts": dict(sorted(counts.items())),
                "files": {str(path.relative_to(staged)): hashing.sha256_file(path) for path in paths},
            }
            write_json(staged / tables.STEP_MANIFEST, manifest)
            if is_remote(out):
                publish_folder(staged, out, last=tables.STEP_MANIFEST)
                shutil.rmtree(staged)
            else:
                replace_folder(staged, out)
        (self.folder / PUBLISHED_MARKER).write_text(self.key.code_hash, encoding="utf-8")
        for folder, _ in self._unpublished_by_other_code():
            _delete(folder)

    def close(self) -> None:
        """Release the lock, so that another run can work here."""
        self._lock.release()


def _published_path(name: str) -> Path:
    """The path of a unit's file below the output: `UNIT.TABLE.parquet` is a part of a further table, in a folder of its own."""
    unit, *table, suffix = name.split(".")
    return Path(*table, f"{unit}.{suffix}") if suffix == "parquet" else Path(name)


def scratch_folder(work: Path, key: StepKey, keyed_by_code: bool = True) -> Path:
    """Return the scratch folder of a step below `work`; see `Scratch` for `keyed_by_code`."""
    code = key.code_hash if keyed_by_code else ""
    return work / f"{key.step}-{hashing.fingerprint(key=key.fingerprint, code=code)}"


def _lock(folder: Path) -> FileLock:
    """Lock the folder. The operating system releases the lock when the process ends, however it ends."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OvsegError(
            f"another run is working in {folder}; wait for it, or set OVSEG_WORK to another folder"
        ) from None
    return lock


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = _lock(folder)
    try:
        yield
    finally:
        lock.release()


def _delete_stale_scratch(work: Path, step: str, keep: Path) -> None:
    """Delete the scratch folders of earlier runs of a step whose results are published: they are not needed any more."""
    for folder in _folders_of(work, step):
        if folder != keep and (folder / PUBLISHED_MARKER).exists():
            _delete(folder)


def _folders_of(work: Path, step: str) -> list[Path]:
    """The scratch folders of a step, and not those of one whose name begins with this one's."""
    of_step = re.compile(rf"{re.escape(step)}-[0-9a-f]{{16}}")
    return sorted(folder for folder in work.glob("*") if of_step.fullmatch(folder.name))


def _delete(folder: Path) -> None:
    """Delete a scratch folder, unless a run is working in it or it is of another user."""
    with contextlib.suppress(OvsegError, OSError), _locked(folder):
        shutil.rmtree(folder, ignore_errors=True)
