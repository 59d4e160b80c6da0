"""The finished run of the shrunk demo (recipes/tiny.yaml), made once and copied for each file of tests."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from filelock import FileLock

from tests.copy import Copy, copy_repository


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Copy:
    """A copy of the repository after a `dvc repro` from nothing, with the outputs and the cache of the run."""
    base = tmp_path_factory.getbasetemp()
    run = (base if worker_id == "master" else base.parent) / "finished_run"  # of all of pytest-xdist's processes
    with FileLock(run.with_name("finished_run.lock")):
        if not (run / "done").exists():
            copy = copy_repository(run / "ovseg")
            shutil.copyfile(copy.folder / "recipes" / "tiny.yaml", copy.folder / "params.yaml")
            copy.commit("tiny")
            copy.dvc("repro")
            copy.commit("run")
            (run / "done").touch()
    own = tmp_path_factory.mktemp("copy")
    shutil.copytree(run, own, symlinks=True, dirs_exist_ok=True)
    return Copy(own / "ovseg")


@pytest.fixture(scope="module")
def default(repo: Copy) -> dict[str, Any]:
    """The metrics of the finished default run."""
    repo.dvc("repro")
    return repo.metrics()
