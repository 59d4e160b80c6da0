"""What the result of a step depends on: its inputs and parameters, and the code that computes it.

The code of a step is the import closure of its module inside this package, without the packages that cannot change a
result (`engine`, `report`, `cli`). It is hashed as a syntax tree without comments and docstrings, so that only an edit that
can change what is computed changes the hash.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ovseg.core import hashing

SOURCE_ROOT = Path(__file__).parents[2]
PACKAGE = "ovseg"
NOT_RESULTS = frozenset({"engine", "report", "cli"})
"""Packages that decide how work is run and shown, never what comes out."""
PARAMETERS = frozenset({"core/options.py", "core/params.py"})
"""The parameters' own files: a parameter counts by its value, so a new key of another step changes nothing."""


@dataclass(frozen=True)
class StepKey:
    """The identity of a step's result.

    Attributes:
        step: the name of the step.
        fingerprint: hash of the parameters, inputs, models and schema, 16 hex digits.
        code: hash of each source file of the step's code, by its path below the package.
    """

    step: str
    fingerprint: str
    code: Mapping[str, str]

    @property
    def code_hash(self) -> str:
        """One hash of all of the step's code, 16 hex digits."""
        return hashing.fingerprint(code=dict(self.code))

    def changed_code(self, code: Mapping[str, str]) -> list[str]:
        """Return the files whose code differs between this key and the recorded `code`, sorted."""
        return sorted(name for name in {*self.code, *code} if self.code.get(name) != code.get(name))

    def describe_changes(self, code: Mapping[str, str]) -> str:
        """Name five of the files of `changed_code` and count the others; nothing if the code is the same."""
        changed = self.changed_code(code)
        return ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")


def step_key(step: str, module: str, **parts: Any) -> StepKey:
    """Make the key of a step.

    Args:
        step: the name of the step.
        module: the dotted name of the module that computes the step (`__name__`); its import closure is the step's code.
        parts: JSON values that the result depends on: parameters, fingerprints of inputs and models.
    """
    return StepKey(step, hashing.fingerprint(step=step, **parts), code_of(module))


@cache
def code_of(module: str) -> dict[str, str]:
    """Return the hash of each source file in the import closure of `module`, by its path below the package."""
    hashes: dict[str, str] = {}
    pending = [module]
    while pending:
        path = _source_file(pending.pop())
        name = "" if path is None else str(path.relative_to(SOURCE_ROOT / PACKAGE))
        if path is None or name in hashes or name in PARAMETERS or Path(name).parts[0] in {"__init__.py", *NOT_RESULTS}:
            continue
        imported, hashes[name] = _parse(path.read_text(encoding="utf-8"))
        pending += imported
    return dict(sorted(hashes.items()))


@cache  # the closures of two modules share most files, and it takes seconds to parse all
def _parse(source: str) -> tuple[list[str], str]:
    """The modules that a file imports, and the hash of its code."""
    tree = ast.parse(source)
    imported = _imported_modules(tree)
    return imported, hashing.sha256_bytes(ast.dump(_without_docstrings(tree)).encode())[:16]


def _source_file(module: str) -> Path | None:
    """The file of a module of this package; None for any other name."""
    if module.split(".", maxsplit=1)[0] != PACKAGE:
        return None
    base = SOURCE_ROOT.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imported_modules(tree: ast.Module) -> list[str]:
    """Dotted names that a file imports, at the top or inside functions, and the packages that contain them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return sorted(names | {name.rpartition(".")[0] for name in names if "." in name})


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without string statements: docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_string(item)]  # type: ignore[attr-defined]
    return tree


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
