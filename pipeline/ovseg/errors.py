"""The two kinds of trouble: one stops the command, the other drops one item of a big run."""

from __future__ import annotations


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
