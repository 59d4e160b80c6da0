"""The DAG says the truth: each stage's code deps are what its script imports, its params are what its script reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.structure.closure import DAGS, FETCHES, ROOT, closure

STAGES = {
    f"{dag.parent.name if dag.parent != ROOT else 'main'}:{name}": stage
    for dag in DAGS
    for name, stage in yaml.safe_load(dag.read_text(encoding="utf-8"))["stages"].items()
}
PARAMS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
ORDER = [
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
    "calibrate",
    "evaluate",
    "report",
]


def _script(stage: dict[str, Any]) -> Path:
    words: list[str] = stage["cmd"].split()
    return ROOT / (words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1])


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_exactly_the_import_closure_of_the_script(name: str) -> None:
    stage = STAGES[name]
    ours = {dep for dep in stage.get("deps", []) if dep.startswith(("pipeline/", "stages/")) or dep.endswith(".py")}
    tables = {dep for dep in ours if "$" in dep or dep.endswith("releases.json")}
    assert ours - tables == (set() if stage["cmd"].split()[2] in FETCHES else closure(_script(stage)))


@pytest.mark.parametrize("name", STAGES)
def test_declared_params_are_exactly_those_that_the_script_reads(name: str) -> None:
    declared = {key for entry in STAGES[name].get("params", []) for key in _expand(entry)}
    assert declared == _read(_script(STAGES[name]))


def test_every_params_key_is_used_by_some_stage() -> None:
    used = {key for stage in STAGES.values() for entry in stage.get("params", []) for key in _expand(entry)}
    used |= {key for dag in DAGS for key in re.findall(r"\$\{(data\.\w+)\}", dag.read_text(encoding="utf-8"))}
    assert used == {key for section in PARAMS for key in _expand(section)}


def test_stages_stand_in_the_order_data_flows_and_have_a_file_each() -> None:
    main = [name.split(":")[1] for name in STAGES if name.startswith("main:")]
    assert main == ORDER
    assert {f"stages/{name}.py" for name in ORDER} <= {str(p.relative_to(ROOT)) for p in (ROOT / "stages").glob("*.py")}


def _expand(entry: str) -> set[str]:
    """ "select" -> every key of the section; "select.rule" -> itself."""
    section, _, key = entry.partition(".")
    return {entry} if key else {f"{section}.{field}" for field in PARAMS[section]}


def _read(script: Path) -> set[str]:
    """Every `params.section.key` that a script, or what it imports from stages/, reads; `params.section` by itself, or
    `read_section(path, "section", model)`, is all of its keys."""
    files = [ROOT / path for path in closure(script) if path.startswith(("stages/", "data/")) and path.endswith(".py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    sections = [
        node
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    ]
    keys = [node for node in nodes if isinstance(node, ast.Attribute) and node.value in sections]
    whole = {node.attr for node in sections} - {
        node.value.attr for node in keys if isinstance(node.value, ast.Attribute)
    }
    whole |= {
        str(argument.value)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_section"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    return {key for section in whole for key in _expand(section)} | {
        f"{node.value.attr}.{node.attr}" for node in keys if isinstance(node.value, ast.Attribute)
    }
