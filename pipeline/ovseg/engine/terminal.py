"""Lines on a terminal: broken between words where they are too long for it. In files and pipes they stay whole."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap

INDENT = "  "


def log_to_stderr() -> None:
    """Show log messages of this process on stderr, without their time and level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def fit_terminal(text: str) -> str:
    """Return a text for stderr: with lines that fit a terminal, or as it is where stderr is none.

    Words are never broken, so that a path can be copied; the further lines of a long one are indented.
    """
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line if len(line) <= width else _wrap(line, width) for line in text.split("\n"))


def _wrap(line: str, width: int) -> str:
    return textwrap.fill(
        line,
        width,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


class _Lines(logging.Formatter):
    """The way that `logging` takes a function of a message."""

    def format(self, record: logging.LogRecord) -> str:
        return fit_terminal(super().format(record))
