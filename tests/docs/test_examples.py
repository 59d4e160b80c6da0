"""Every shell and Python block of README.md and docs/*.md, run in a copy of the repository with the demo shrunk.

The blocks of a page are run in their order, and the pages in the order of `PAGES`: what one wrote the next may read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovseg.clip.adapted import load_adapted, materialise, save_adapted
from ovseg.clip.prompts import new_prompts
from ovseg.clip.save import model_config
from tests.copy import Copy, copy_repository
from tests.docs.blocks import PYTHON, SHELL, Block, as_run, blocks

RUN = """
import json, sys, traceback
failures = {}
for name, text in json.load(open(sys.argv[1])).items():
    try:
        exec(compile(text, name, "exec"), {"__name__": "example"})
    except BaseException:
        failures[name] = traceback.format_exc()
json.dump(failures, open(sys.argv[2], "w"))
"""


def _make_models() -> None:
    """What `base` and `prompt` write, but for the training."""
    base, prompt = Path("models/base"), Path("models/prompt")
    materialise("local-dir:data/demo/clip", None, base)
    clip = load_adapted(base)
    prompts = new_prompts(clip.model.visual, 2, 0)  # type: ignore[arg-type]
    save_adapted(clip.model, model_config(f"local-dir:{base}"), prompts, {}, prompt)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The repository with a tiny demo, models, a photo and a folder of photos."""
    copy = copy_repository(tmp_path_factory.mktemp("docs") / "ovseg")
    copy.env |= {"OVSEG_WORKERS": "1", "OVSEG_DEVICE": "cpu", "OVSEG_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    shutil.copyfile(copy.folder / "recipes" / "tiny.yaml", copy.folder / "params.yaml")
    copy.commit("tiny")
    copy.run(sys.executable, "-m", "data.demo.draw")
    with contextlib.chdir(copy.folder):
        _make_models()
    shutil.copytree(copy.folder / "data" / "demo" / "proposal_network", copy.folder / "models" / "proposal_network")
    images = sorted((copy.folder / "data" / "demo" / "val" / "images").iterdir())
    shutil.copyfile(images[0], copy.folder / "photo.jpg")
    (copy.folder / "photos").mkdir()
    for image in images[1:3]:
        shutil.copy2(image, copy.folder / "photos")
    return copy


@pytest.fixture(scope="module")
def python_failures(repo: Copy) -> dict[str, str]:
    """The traceback of each Python block that fails; all are run in one process, each in a namespace of its own."""
    texts = {str(block): block.text for block in blocks(*PYTHON) if block.reason is None}
    given, written = Path(repo.folder.parent / "blocks.json"), Path(repo.folder.parent / "failures.json")
    given.write_text(json.dumps(texts), encoding="utf-8")
    repo.run(sys.executable, "-c", RUN, str(given), str(written))
    return dict(json.loads(written.read_text(encoding="utf-8")))


@pytest.mark.parametrize("block", [block for block in blocks(*SHELL) if block.reason is None], ids=str)
def test_shell_block(repo: Copy, block: Block) -> None:
    done = subprocess.run(
        ["bash", "-c", as_run(block.text)], cwd=repo.folder, env=repo.env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", [block for block in blocks(*PYTHON) if block.reason is None], ids=str)
def test_python_block(python_failures: dict[str, str], block: Block) -> None:
    assert str(block) not in python_failures, python_failures[str(block)]
