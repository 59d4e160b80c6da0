"""The two kinds of errors: `OvsegError` stops the command, `BadItem` drops one item of a large run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one that names the remedy, for code that writes to or below `path`.

    Raises:
        OvsegError: instead of an OSError for no space left, an exceeded quota or a file that is too large.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK_ERRNOS:
            raise
        raise OvsegError(
            f"no space left for {path}. Finished work is kept: free some space, or move the folder of unfinished work and "
            "set OVSEG_WORK to its new place, and run the same command again"
        ) from None
