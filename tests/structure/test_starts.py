"""Stages whose own process runs no model start without torch: a second instead of five. Their workers import what they need."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import ROOT

WITHOUT_TORCH = (
    "download",
    "verify",
    "index",
    "nouns",
    "propose",
    "select",
    "shards",
    "embed_heldout",
    "calibrate",
    "embed",
    "evaluate",
)
SLOW = ("torch", "torchvision", "open_clip", "transformers", "timm", "scipy", "spacy")
"""Packages that take from a fifth of a second to two seconds to import."""
SCRIPT = """
import importlib, json, sys
imports, before = {}, set()
for stage in sys.argv[2:]:
    importlib.import_module(f"stages.{stage}")
    new = sys.modules.keys() & set(json.loads(sys.argv[1])) - before
    before |= new
    if new:
        imports[stage] = sorted(new)
print(json.dumps(imports))
"""


def test_these_stages_start_without_torch() -> None:
    command = [sys.executable, "-c", SCRIPT, json.dumps(SLOW), *WITHOUT_TORCH]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {}, "these import them; do so in the function that a worker calls"
