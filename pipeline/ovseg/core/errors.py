"""The two kinds of trouble: one stops the command, the other drops one item of a big run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OvsegError(Exception):
    """Something the user can mend. The message names the value, the file and the remedy; no traceback is shown."""


class BadItem(Exception):  # noqa: N818 - it is not an error of the run: the item is recorded and the run goes on
    """One image, caption or mask that cannot be used.

    Attributes:
        reason: a short fixed word that runs are counted by ("missing", "truncated", ...).
        detail: what exactly was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@contextmanager
def enough_space(where: Path) -> Iterator[None]:
    """Writing into `where`: a full disk is something that the user can mend.

    Raises:
        OvsegError: in the place of an OSError for no space left, a quota, or too large a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OvsegError(
            f"no space left for {where}. What was finished is kept: free some space, or move the folder of unfinished work "
            "and set OVSEG_WORK to its new place, and run the same command again"
        ) from None
