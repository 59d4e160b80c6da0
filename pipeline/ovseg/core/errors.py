"""The two kinds of errors: `OvsegError` stops the command, `BadItem` drops one item of a large run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_TEMPORARY_FOLDER = "No usable temporary directory"  # in the message of Python's tempfile
OTHER_FOLDER = "choose another folder (OVSEG_WORK sets the one of unfinished work)"


class OvsegError(Exception):
    """An error that the user can correct.

    Its message names the value, the file and the remedy, and is printed without a traceback.
    """


class BadItem(Exception):  # noqa: N818 - not an error of the run: the item is recorded and the run continues
    """An image, caption or mask that cannot be used.

    Attributes:
        reason: the rejection reason, a short fixed word that steps count by ("missing", "truncated", ...).
        detail: a sentence about this item.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one that names the remedy, for code that writes to or below `path`.

    Raises:
        OvsegError: instead of an OSError that `describe_os_error` knows.
    """
    try:
        yield
    except OSError as error:
        if message := describe_os_error(error, path):
            raise OvsegError(message) from None
        raise


def describe_os_error(error: OSError, path: Path | None = None) -> str | None:
    """Describe an error of the file system that the user can correct.

    Args:
        error: a full disk, missing permissions, a read-only file system, a file where a folder is needed, or too long a name.
        path: what was written to, where the error does not say it.

    Returns:
        a sentence that names the path and the remedy; None for another error.
    """
    place = error.filename2 or error.filename or path or "a file"
    if error.errno in FULL_DISK:
        return (
            f"no space left for {path or place}. Finished work is kept: free some space, or move the folder of unfinished work "
            "and set OVSEG_WORK to its new place, and run the same command again"
        )
    remedies = {
        errno.EACCES: f"permission denied for {place}; change its permissions or its owner, or {OTHER_FOLDER}{_umask_note()}",
        errno.EROFS: f"{place} is on a read-only file system; {OTHER_FOLDER}",
        errno.ENOTDIR: f"a part of the path {place} is a file, not a folder; {OTHER_FOLDER}",
        errno.EEXIST: f"{place} exists, and is no folder to write to; remove it, or {OTHER_FOLDER}",
        errno.EISDIR: f"{place} is a folder, and a file is needed; give the file in it",
        errno.ENOLCK: f"the file system of {place} has no locks or links; {OTHER_FOLDER}",
        errno.ENAMETOOLONG: f"the name of {place} is too long for the file system; {OTHER_FOLDER}",
    }
    remedies[errno.EPERM] = remedies[errno.EACCES]
    remedies[errno.ENOSYS] = remedies[errno.ENOTSUP] = remedies[errno.ENOLCK]
    if NO_TEMPORARY_FOLDER in str(error):
        return f"{error.strerror}; set TMPDIR to a folder that can be written to"
    return remedies.get(error.errno or 0)


def _umask_note() -> str:
    """What to change about a umask that keeps the owner out of new folders."""
    umask = os.umask(0o022)
    os.umask(umask)
    return f". The umask {umask:03o} forbids new files to their owner: set it to 022" if umask & 0o700 else ""
