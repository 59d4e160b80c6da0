"""The two kinds of errors: `OvsegError` stops the command, `BadItem` drops one item of a large run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_TEMPORARY_FOLDER = "No usable temporary directory"  # in the message of Python's tempfile
STORAGE_CLIENTS = ("aiobotocore", "aiohttp", "adlfs", "azure", "botocore", "gcsfs", "google", "s3fs")
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or for another service what its client reads"
)
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
        OvsegError: instead of an error that `describe_os_error` knows.
    """
    try:
        yield
    except Exception as error:
        if message := describe_os_error(error, path):
            raise OvsegError(message) from None
        raise


def describe_os_error(error: Exception, path: Path | None = None) -> str | None:
    """Describe an error of the file system or of object storage that the user can correct.

    Args:
        error: a full disk, missing permissions, a read-only file system, a file where a folder is needed, or too long a name;
            or any error of object storage.
        path: what was written to, where the error does not say it.

    Returns:
        a sentence that names the path and the remedy; None for another error.
    """
    if is_of_storage(error):
        return _describe_storage_error(error, path)
    if not isinstance(error, OSError):
        return None
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


def is_of_storage(error: BaseException) -> bool:
    """Whether an error, or what caused it, is one of a client of object storage."""
    causes = (error, error.__cause__)
    return any(type(cause).__module__.partition(".")[0] in STORAGE_CLIENTS for cause in causes)


def _describe_storage_error(error: Exception, path: Path | None) -> str:
    place = f"{path}: " if path else ""
    if "Credentials" in type(error).__name__:
        return f"{place}there are no credentials for the object storage; {CREDENTIALS}"
    if isinstance(error, PermissionError):
        return f"{place}the object storage refuses access ({error}); {CREDENTIALS}, of somebody who may read and write there"
    if isinstance(error, FileNotFoundError):
        return f"{place}{error}; check the name of the bucket, and create it if it is new"
    return (
        f"{place}the object storage does not answer as it should ({error}); check its address (of S3: AWS_ENDPOINT_URL) "
        "and run the same command again: finished work is kept"
    )


def _umask_note() -> str:
    """What to change about a umask that keeps the owner out of new folders."""
    umask = os.umask(0o022)
    os.umask(umask)
    return f". The umask {umask:03o} forbids new files to their owner: set it to 022" if umask & 0o700 else ""
