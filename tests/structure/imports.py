"""The project's own imports, read from its source: which files a file imports, and all that a script needs to run."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline" / "ovseg"
SOURCE_ROOTS = {"ovseg": ROOT / "pipeline", "stages": ROOT, "data": ROOT}


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """The files of the project that a file imports, at the top or inside functions.

    `from package import name` imports the module of that name if there is one, else the package's `__init__.py`.
    """
    files = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            files |= {source_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            files |= {source_file(f"{node.module}.{a.name}") or source_file(node.module) for a in node.names}
    return frozenset(file for file in files if file)


def source_file(module: str) -> Path | None:
    """The file of a module or package of the project; None for any other name."""
    first, *_ = parts = module.split(".")
    base = SOURCE_ROOTS[first].joinpath(*parts) if first in SOURCE_ROOTS else None
    candidates = (base.with_suffix(".py"), base / "__init__.py") if base else ()
    return next((path for path in candidates if path.is_file()), None)


def closure(script: Path, stop: Callable[[Path], bool] = lambda _: False) -> set[Path]:
    """A file and all files of the project that it imports, directly or not; files for which `stop` is true are left out."""
    files: set[Path] = set()
    pending = [script]
    while pending:
        path = pending.pop()
        if path not in files and not stop(path):
            files.add(path)
            pending += imported_files(path)
    return files


def package_of(path: Path) -> str | None:
    """The package of the library that a file belongs to ("core", "clip", ...); None for other files."""
    if not path.is_relative_to(PACKAGE) or path.parent == PACKAGE:
        return None
    return path.relative_to(PACKAGE).parts[0]
