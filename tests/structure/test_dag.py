"""dvc.yaml tells the truth: a stage's code deps are the packages that its script imports, its params those that it reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from tests.structure.imports import PACKAGE, ROOT, closure, package_of

DAGS = (ROOT / "dvc.yaml", *sorted((ROOT / "data").glob("*/dvc.yaml")))
MAX_LINES, MAX_LINES_OF_DATA = 380, 40
PARAMS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = {
    f"{dag.parent.relative_to(ROOT)}:{name}": stage
    for dag in DAGS
    for name, stage in yaml.safe_load(dag.read_text(encoding="utf-8"))["stages"].items()
}
ORDER = (
    "base",
    "index",
    "nouns",
    "proposal_network",
    "propose",
    "score",
    "select",
    "shards",
    "finetune",
    "prompt",
    "measure",
    "embed_heldout",
    "calibrate",
    "embed",
    "evaluate",
    "report",
)
NO_RESULTS = frozenset({"engine", "cli", "report"})
"""Packages that decide how work is run and shown, and can change no result; only the stage `report` depends on `report`."""
DOWNLOADS = ("stages.download", "stages.verify")
"""Stages without code deps: no edit of code may download a data set again."""


def test_code_deps_are_the_packages_that_the_script_imports() -> None:
    wrong = {}
    for name, stage in STAGES.items():
        named, needed = _named_code(stage), _needed_code(stage)
        if named != needed:
            wrong[name] = {"to add": sorted(needed - named), "to remove": sorted(named - needed)}
    assert not wrong, f"deps of dvc.yaml: {wrong}"


def test_declared_params_are_those_that_the_script_reads() -> None:
    wrong = {}
    for name, stage in STAGES.items():
        declared, read = _declared_params(stage), _read_params(_script(stage))
        if declared != read:
            wrong[name] = {"to add": sorted(read - declared), "to remove": sorted(declared - read)}
    assert not wrong, f"params of dvc.yaml: {wrong}"


def test_every_params_key_is_used_by_a_stage() -> None:
    used = {key for stage in STAGES.values() for key in _declared_params(stage)}
    used |= {key for dag in DAGS for key in re.findall(r"\$\{(data\.\w+)\}", dag.read_text(encoding="utf-8"))}
    assert used == {key for section in PARAMS for key in _keys(section)}


def test_the_spacy_pipeline_is_tracked() -> None:
    """`nouns` depends on the pipeline's folder (`data.tagger`) or, for an installed package, on its name and version."""
    nouns = STAGES[".:nouns"]
    assert "${data.tagger}" in nouns["deps"]
    assert {"nouns.model", "nouns.model_version"} <= _declared_params(nouns)


def test_stages_stand_in_the_order_data_flows_with_a_file_and_a_description_each() -> None:
    assert tuple(name.removeprefix(".:") for name in STAGES if name.startswith(".:")) == ORDER
    for name, stage in STAGES.items():
        assert _script(stage).is_file(), name
        assert stage.get("desc"), f"{name} has no desc"


def test_every_dvc_yaml_is_short_enough_to_be_read() -> None:
    for dag in DAGS:
        limit = MAX_LINES if dag.parent == ROOT else MAX_LINES_OF_DATA
        lines = len(dag.read_text(encoding="utf-8").splitlines())
        assert lines <= limit, f"{dag.relative_to(ROOT)} has {lines} lines; the limit is {limit}"


def test_recipes_of_published_data_use_nothing_of_the_demo() -> None:
    for recipe in sorted((ROOT / "recipes").glob("coco-*.yaml")):
        assert "demo" not in recipe.read_text(encoding="utf-8").lower(), recipe.name


def test_the_library_does_not_know_the_demo() -> None:
    uses = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".json", ".html", ".txt")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "demo" in line.lower()
    ]
    assert not uses, "\n".join(uses)


def _script(stage: dict[str, Any]) -> Path:
    module = str(stage["cmd"]).split()[2]  # python -m MODULE
    return ROOT / (module.replace(".", "/") + ".py")


def _named_code(stage: dict[str, Any]) -> set[str]:
    """The deps of a stage that are code; ${parameters} are data, as are single files of a package."""
    names = {str(dep).rstrip("/") for dep in stage.get("deps", []) if "$" not in str(dep)}
    return {name for name in names if name.endswith(".py") or _is_code_folder(ROOT / name)}


def _is_code_folder(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.py"))


def _needed_code(stage: dict[str, Any]) -> set[str]:
    """The files and folders of code that can change a stage's result, as dvc.yaml names them."""
    if stage["cmd"].split()[2] in DOWNLOADS:
        return set()
    script = _script(stage)
    skipped = NO_RESULTS - {script.stem}
    files = closure(script, stop=lambda path: package_of(path) in skipped)
    return {dep for file in files if (dep := _dep_of(file))}


def _dep_of(file: Path) -> str | None:
    """What stands for a file in dvc.yaml: its package, its folder of data/*/, or the file itself."""
    if file.is_relative_to(PACKAGE):
        package = package_of(file)
        return f"pipeline/ovseg/{package}" if package else None
    if file.name == "__init__.py" and file.parent.parent == ROOT:
        return None
    parts = file.relative_to(ROOT).parts
    if parts in (("stages", "__init__.py"), ("stages", "_run.py")):  # how any stage is started
        return None
    return "/".join(parts[:3])


def _keys(entry: str) -> set[str]:
    """ "select" -> every key of the section; "select.rule" -> itself."""
    section, _, key = entry.partition(".")
    return {entry} if key else {f"{section}.{name}" for name in PARAMS[section]}


def _declared_params(stage: dict[str, Any]) -> set[str]:
    return {key for entry in stage.get("params", []) for key in _keys(entry)}


def _read_params(script: Path) -> set[str]:
    """The parameters that a script and what it imports from stages/ read.

    They read `params.SECTION.KEY`; `params.SECTION` by itself and `read_section(path, "SECTION", model)` are all its keys.
    """
    files = [path for path in closure(script) if path.parent in (ROOT / "stages", script.parent)]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    keys: set[str] = set()
    partly_read = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and _is_section(node.value):
            section = node.value.attr
            if node.attr in PARAMS[section]:
                keys.add(f"{section}.{node.attr}")
                partly_read.add(node.value)
    for node in nodes:
        if _is_section(node) and node not in partly_read:
            keys |= _keys(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_section":
            keys |= {key for a in node.args if isinstance(a, ast.Constant) for key in _keys(str(a.value))}
    return keys


def _is_section(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
        and node.attr in PARAMS
    )
