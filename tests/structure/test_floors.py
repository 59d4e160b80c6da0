"""The house stands: lower rooms never import higher ones; dvc is never imported, what is optional not at the top."""

from __future__ import annotations

import ast

import pytest

from tests.structure.closure import ROOT, imports

PACKAGE = ROOT / "pipeline" / "ovseg"
FLOORS = (
    {
        "errors",
        "fingerprint",
        "params",
        "tables",
        "masks",
        "images",
        "crops",
        "vocabulary",
        "samples",
        "units",
        "progress",
        "runtime",
        "weights",
    },
    {"clip", "proposals", "datasets"},
    {"mining", "training", "segmentation"},
    {"evaluation", "report"},
    {"cli"},
)
OPTIONAL = {"transformers", "ray", "gradio"}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "ovseg" and len(parts) > 1 else None


def _floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_its_own_floor_and_those_below(path: object) -> None:
    relative = FILES[FILES.index(path)].relative_to(PACKAGE)  # type: ignore[arg-type]
    room = relative.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    above = {r for name in imports(PACKAGE / relative) if (r := _room(name)) and _floor(r) > _floor(room)}
    assert not above, f"{relative} imports from higher rooms: {above}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_library_never_imports_dvc_and_optional_packages_only_inside_functions(path: object) -> None:
    tree = ast.parse(FILES[FILES.index(path)].read_text(encoding="utf-8"))  # type: ignore[arg-type]
    top = {name for node in tree.body for name in _imported(node)}
    everywhere = {name for node in ast.walk(tree) for name in _imported(node)}
    assert "dvc" not in everywhere
    assert not top & OPTIONAL


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
