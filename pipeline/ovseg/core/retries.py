"""Failures that may pass: which they are, and how often a read is tried before an item is given up.

A network file system that stalls, or a disk that is being mended, is no fault of the image. What has failed for good (a file
that is not there, a damaged image) is never tried again.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ovseg.core.errors import BadItem

PASSING = frozenset({"unreadable"})
"""The rejection reasons that may pass; steps do units with such items once more, and so does `ovseg-mine retry`."""
FOR_GOOD = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EACCES,
        errno.EPERM,
    }
)
"""The errors of the file system that do not pass by themselves."""
PAUSES = (0.5, 2.0)  # seconds before the second and third try

T = TypeVar("T")


def try_again(read: Callable[[], T]) -> T:
    """Return what `read` returns, trying again after errors that may pass.

    Raises:
        OSError: at once for an error that stays; otherwise that of the last try.
    """
    for pause in PAUSES:
        try:
            return read()
        except OSError as error:
            if stays(error):
                raise
        time.sleep(pause)
    return read()


def stays(error: OSError) -> bool:
    """Whether an error of the file system or of object storage does not pass by itself."""
    without_number = FileNotFoundError, PermissionError  # as clients of object storage raise them
    return error.errno in FOR_GOOD or isinstance(error, without_number)


def read_patiently(path: Path, read: Callable[[], T]) -> T:
    """Return what `read` returns, trying again after errors that may pass.

    Args:
        path: what is read, for the error.
        read: reads it.

    Raises:
        BadItem: `missing` at once for an error that stays; `unreadable` if the last try fails, too.
    """
    try:
        return try_again(read)
    except OSError as error:
        reason = error.strerror or str(error)
        if stays(error):
            raise BadItem("missing", f"{path}: {reason}") from None
        raise BadItem("unreadable", f"{path}: {reason}, in {len(PAUSES) + 1} tries") from None


def may_pass(counts: Mapping[str, int]) -> bool:
    """Whether counts of a unit or of a step are of items that were dropped for a reason that may pass."""
    return any(counts.get(f"dropped.{reason}") for reason in PASSING)
