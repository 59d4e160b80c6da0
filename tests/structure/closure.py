"""Which files of ours a script depends on: its imports, theirs, and the data files that they read.

`python -m tests.structure.closure` writes them into every dvc.yaml.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DAGS = (ROOT / "dvc.yaml", *sorted((ROOT / "data").glob("*/dvc.yaml")))
FETCHES = ("stages.download", "stages.verify")  # an edit of code downloads nothing again
SOURCES = {"ovseg": ROOT / "pipeline", "stages": ROOT}


def closure(script: Path) -> set[str]:
    """Paths, relative to the root, of every file of ours that running `script` may read as code or package data."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            if path.suffix == ".py":
                waiting += _reads(path)
    return {str(path.relative_to(ROOT)) for path in found}


def imports(path: Path) -> set[str]:
    """Dotted names of our own modules that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in SOURCES and _file(name)}


def _reads(path: Path) -> list[Path]:
    files: list[Path] = []
    for name in imports(path):
        parts = name.split(".")
        packages = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        files += [file for package in packages if (file := _file(package))]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "joinpath":
            files += [
                path.parent / a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
    return files


def _file(name: str) -> Path | None:
    base = SOURCES[name.split(".", maxsplit=1)[0]].joinpath(*name.split("."))
    options = (base.with_suffix(".py"), base / "__init__.py")
    return next((option for option in options if option.is_file()), None)


def write(dag: Path) -> None:
    """Replace the code deps of every stage of a dvc.yaml by the import closure of its script."""
    head, *stages = re.split(r"(?m)^(?=  [a-z]+:$)", dag.read_text(encoding="utf-8"))
    dag.write_text(head + "".join(map(_with_deps, stages)), encoding="utf-8")


def _with_deps(stage: str) -> str:
    found = re.search(r"cmd: python (?:-m )?(\S+)", stage)
    if found is None or found[1] in FETCHES:
        return stage
    script = found[1] if found[1].endswith(".py") else found[1].replace(".", "/") + ".py"
    lines = [
        line for line in stage.splitlines(keepends=True) if not re.match(r"      - (pipeline|stages)/[^$]*$", line)
    ]
    lines = [line for line in lines if line != f"      - {script}\n"]
    after = 1 + max(
        i for i, line in enumerate(lines[: _end(lines)]) if line == "    deps:\n" or line.startswith("      - ")
    )
    return "".join([*lines[:after], *(f"      - {path}\n" for path in sorted(closure(ROOT / script))), *lines[after:]])


def _end(lines: list[str]) -> int:
    """Where the deps of a stage end."""
    begin = lines.index("    deps:\n") + 1
    return next((i for i in range(begin, len(lines)) if not lines[i].startswith("      ")), len(lines))


if __name__ == "__main__":
    for dag in DAGS:
        write(dag)
