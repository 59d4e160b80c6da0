"""The layers of the library: imports go down only and never in a circle, and optional packages stay optional."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.structure.imports import PACKAGE, ROOT, imported_files, package_of

LAYERS = (
    {"core"},
    {"engine"},
    {"clip", "proposals", "datasets"},
    {"mining", "training", "segmentation"},
    {"evaluation", "report"},
    {"app", "cli"},
)
"""From the bottom to the top; `stages/` and `data/` may import all of them."""
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_package_has_its_layer() -> None:
    assert {package_of(path) for path in FILES} - {None} == LEVEL.keys()


def test_a_package_imports_only_from_its_own_layer_and_those_below() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"
        for path in FILES
        for imported in sorted(imported_files(path))
        if _level(imported) > _level(path)
    ]
    assert not upward, "imports from a higher layer:\n" + "\n".join(upward)


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {package: set() for package in LEVEL}
    for path in FILES:
        if package := package_of(path):
            graph[package] |= {other for file in imported_files(path) if (other := package_of(file))} - {package}
    assert _circle(graph) is None


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {_module(path): {_module(file) for file in imported_files(path)} for path in FILES}
    assert _circle(graph) is None


def test_the_library_imports_nothing_of_stages_data_and_dvc() -> None:
    forbidden = {"dvc", "stages", "data", "tests", "benchmarks", "experiments"}
    violations = [f"{path.relative_to(ROOT)}: {name}" for path in FILES for name in _imports(path) if name in forbidden]
    assert not violations, "\n".join(violations)


def test_optional_packages_are_imported_inside_functions_alone() -> None:
    optional = _optional_packages()
    assert {"transformers", "ray", "gradio"} <= optional
    violations = [f"{p.relative_to(ROOT)}: {name}" for p in FILES for name in _imports(p, top=True) if name in optional]
    assert not violations, "imported when the module is:\n" + "\n".join(violations)


def _level(path: Path) -> int:
    package = package_of(path)
    if package:
        return LEVEL[package]
    return -1 if path.is_relative_to(PACKAGE) else len(LAYERS)  # ovseg/__init__.py; stages and data


def _module(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _circle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def _imports(path: Path, top: bool = False) -> set[str]:
    """The first parts of all names that a file imports; with `top` only outside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        if not (top and (isinstance(node, ast.FunctionDef) or _is_type_checking(node))):
            pending += ast.iter_child_nodes(node)
    return names


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _optional_packages() -> set[str]:
    """The packages of all extras but those of developers, by the names that they are imported by."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    requirements = [line for name, lines in extras.items() if name not in ("dev", "pipeline") for line in lines]
    return {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in requirements}
