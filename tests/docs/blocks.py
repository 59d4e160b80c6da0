"""The code blocks of README.md and docs/*.md, and how the shell ones are run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELL, PYTHON = ("sh", "bash"), ("python",)
NOT_CODE = ("json", "text", "bibtex", "mermaid", "yaml")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: file name.
        line: line of the fence, from 1.
        language: what follows the fence.
        text: its lines.
        reason: why it is not run, from a comment right above it; None for a block that is run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages, page by page; all there are if none is named."""
    return [block for page in PAGES for block in _blocks(page) if not languages or block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        above = text[: found.start()]
        mark = MARK.search(above)
        body = re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(page.name, above.count("\n") + 1, found["language"], body, mark["reason"] if mark else None)


def as_run(text: str) -> str:
    """A shell block as it is run: what would take long is only planned, and a line that fails ends the block.

    `make` and `dvc repro` only say what they would do; `dvc exp run` puts the experiment in the queue, which checks its
    overrides; and mining is of a few images.
    """
    text = re.sub(r"\bmake ", "make --dry-run ", text)
    text = re.sub(r"\bdvc repro(?! --dry)", "dvc repro --dry --force", text)
    text = re.sub(r"\bdvc exp run(?! --queue)", "dvc exp run --queue", text)
    text = re.sub(r"--limit \d+", "--limit 10", text)
    return f"set -euo pipefail\n{text}"
