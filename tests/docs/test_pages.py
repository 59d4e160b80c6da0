"""What README.md and docs/*.md name exists: files, parameters, options, environment variables; the reference is up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from docs.reference import TARGET, reference
from ovseg.core.params import Params
from tests.conftest import ROOT
from tests.docs.blocks import NOT_CODE, PAGES, PYTHON, SHELL, blocks

WORDS = 900  # of README.md
LINK = re.compile(r"\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
SETTING = re.compile(r"\b(?P<section>[a-z_]+)\.(?P<key>[a-z_]+)=(?P<value>'[^']*'|\[[^]]*\]|[^\s`;,)]*[^\s`;,.)])")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
VARIABLE = re.compile(r"\bOVSEG_[A-Z_]+\b")
SOURCES = ("pipeline", "stages", "data")
OF_OTHER_TOOLS = {"--index-url"}


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _value(text: str) -> object:
    """A value as `-S` reads it: YAML, but for numbers such as 3e-4."""
    return float(text) if re.fullmatch(r"\d+e-?\d+", text) else yaml.safe_load(text)


def test_readme_fits_on_a_few_screens() -> None:
    assert len(_text(ROOT / "README.md").split()) <= WORDS


def test_the_ladder_of_readme_is_that_of_the_papers_table_3() -> None:
    """Rows and columns in the same order, ours and the paper's swapped; a spread of 0 is left out."""
    readme = _table(_text(ROOT / "README.md"), "| CLIP | demo: fine")
    paper = _table(_text(ROOT / "docs" / "paper.md"), "| Table 3 |")
    assert len(readme) == len(paper) == 4
    for ours, theirs in zip(readme, paper, strict=True):
        swapped = [cell for i in range(1, len(theirs), 2) for cell in (theirs[i + 1], theirs[i])]
        assert ours[1:] == [cell.removesuffix(" ± 0.0") for cell in swapped]


def _table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table whose heading begins so, row by row."""
    lines = text[text.index(heading) :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_block_is_run_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [block for block in blocks() if block.language not in NOT_CODE]
    with capsys.disabled():
        sys.stdout.write(
            "\n" + "".join(f"{block!s:24} {block.language:7} {block.reason or 'run'}\n" for block in listed)
        )
    assert [block for block in listed if block.language not in (*SHELL, *PYTHON)] == [], "a language that no test knows"


def test_the_reference_is_what_the_code_gives() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "run: python -m docs.reference"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(_text(page)):
        target, anchor = link["target"], link["anchor"]
        if target.startswith(("http", "mailto")):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = [found["title"] for found in HEADING.finditer(_text(path))]
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}; there are {sorted(anchors)}"


def test_parameters_that_the_pages_set_exist_and_take_these_values() -> None:
    """Each `section.key=value` is tried on its own, as `dvc exp run -S` would set it."""
    default = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tried = 0
    for page in PAGES:
        for found in SETTING.finditer(_text(page)):
            section, key, value = found["section"], found["key"], found["value"].strip("'")
            if section not in Params.model_fields:
                continue
            assert key in default[section], f"{page.name}: {section}.{key}"
            for single in value.split(",") if not value.startswith("[") else [value]:
                changed = {**default, section: {**default[section], key: _value(single)}}
                changed["finetune"] = (
                    {**changed["finetune"], "init": "base"} if section == "prompt" else changed["finetune"]
                )
                changed["prompt"] = (
                    {**changed["prompt"], "init": "base"} if section == "finetune" else changed["prompt"]
                )
                if (section, key) == ("finetune", "pairs"):
                    changed["finetune"] = {**changed["finetune"], "method": "regions"}
                if (section, key) == ("finetune", "psm"):
                    of_psm = {"method": "maskclippp", "region_encoder": "pooled"}
                    changed["finetune"] = {**changed["finetune"], **of_psm}
                if (section, key) == ("finetune", "init"):
                    changed["evaluate"] = {**changed["evaluate"], "models": ["base", "prompt", "finetune"]}
                Params.model_validate(changed)
                tried += 1
    assert tried > 10


def test_options_that_the_pages_name_exist() -> None:
    known = set(OPTION.findall(_text(TARGET))) | OF_OTHER_TOOLS
    for page in PAGES:
        for line in _text(page).splitlines():
            for command in re.findall(r"\bovseg(?:-mine)? [^`#|]*", line):
                unknown = set(OPTION.findall(command)) - known
                assert not unknown, f"{page.name}: {line}"


def test_the_table_of_environment_variables_is_complete() -> None:
    """Those that only tests and benchmarks read are left out."""
    used = {
        name
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*.py")
        for name in VARIABLE.findall(path.read_text(encoding="utf-8"))
    }
    listed = set(re.findall(r"^\| `(OVSEG_[A-Z_]+)`", _text(ROOT / "README.md"), re.MULTILINE))
    assert listed == used
    for page in PAGES:
        assert set(VARIABLE.findall(_text(page))) <= used, page.name
