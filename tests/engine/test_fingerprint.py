"""The key of a step changes with the code that can change its result, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ovseg.engine import fingerprint
from ovseg.engine.fingerprint import code_of, step_key

Edit = Callable[[str, Callable[[str], str]], dict[str, str]]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Edit a file of a copy of the package; returns the code of the step `score` afterwards."""
    root = tmp_path / "pipeline"
    shutil.copytree(fingerprint.SOURCE_ROOT / "ovseg", root / "ovseg", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "SOURCE_ROOT", root)

    def edit(file: str, change: Callable[[str], str]) -> dict[str, str]:
        path = root / "ovseg" / file
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        return code_of.__wrapped__("ovseg.mining.score")

    return edit


def test_comments_docstrings_and_layout_are_no_code(edit: Edit) -> None:
    before = edit("core/crops.py", lambda source: source)
    docstring = '"""Other words."""\n'
    after = edit("core/crops.py", lambda source: docstring + source.replace("\n\n\n", "\n\n\n# why\n") + "\n\n")
    assert before == after


def test_an_edit_of_what_a_step_imports_is_named(edit: Edit) -> None:
    before = edit("core/crops.py", lambda source: source)
    after = edit("core/crops.py", lambda source: source + "\nSIDE = 1\n")
    assert {name for name in before if before[name] != after[name]} == {"core/crops.py"}


@pytest.mark.parametrize(
    "file", ["engine/units.py", "report/page.py", "cli/mine.py", "training/loop.py", "__init__.py"]
)
def test_what_cannot_change_a_step_is_not_its_code(file: str, edit: Edit) -> None:
    before = edit(file, lambda source: source)
    assert edit(file, lambda source: source + "\nSIDE = 1\n") == before and file not in before


def test_imports_inside_functions_count() -> None:
    """The mask sources are imported when they are asked for; they make the masks all the same."""
    assert "proposals/proposal_network.py" in code_of("ovseg.mining.propose")


def test_the_fingerprint_is_of_parameters_and_inputs_alone() -> None:
    one, two = step_key("score", "ovseg.mining.score", top_k=5), step_key("score", "ovseg.mining.select", top_k=5)
    assert one.fingerprint == two.fingerprint and one.code_hash != two.code_hash
    assert one.fingerprint != step_key("score", "ovseg.mining.score", top_k=4).fingerprint
    assert one.changed_code(dict(one.code)) == [] and one.changed_code({**one.code, "gone.py": "x"}) == ["gone.py"]
