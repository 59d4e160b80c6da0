"""Two processes of one real torchrun, over gloo: their gradients are those of one, and they train one network."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from ovseg.engine.process import torchrun_command
from ovseg.proposals.network_folder import load_network
from ovseg.training.region_training import RunFolders
from tests.conftest import ROOT, THINGS, Coco, Toys
from tests.towers import with_pseudo_texts
from tests.training import test_contrastive, test_proposal_network, test_pseudo_text_training
from tests.training.region_run import write_run
from tests.training.test_proposal_network import alike, assert_close, curves


@pytest.fixture(scope="module")
def ranks(index: Path, coco: Coco, toys: Toys, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two made: gradients of a step of each kind of training, and a training of the proposal network."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = (index, coco.images, coco.instances, toys.clip, base)
    (folder / "paths.json").write_text(json.dumps([*map(str, paths)]))
    write_run(folder / "run")
    with_pseudo_texts(folder / "pseudo")
    command = torchrun_command("tests.training.ranks", 2, str(folder))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("parts", [1, 2])
def test_the_contrastive_gradient_is_that_of_one_process(base: Path, ranks: Path, parts: int) -> None:
    """Every rank holds the same gradient afterwards."""
    whole = test_contrastive.gradients(base, [test_contrastive.batch_of(0, 12)])
    for rank in range(2):
        results = torch.load(ranks / f"contrastive-{parts}-{rank}.pt", weights_only=True)
        assert json.loads((ranks / f"{rank}.json").read_text()) == {"rank": rank, "size": 2}
        for name, gradient in whole.items():
            torch.testing.assert_close(results[name], gradient, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_the_masks_is_that_of_one_process(ranks: Path, toys: Toys) -> None:
    """Of a batch in which each has as many masks; both hold the same afterwards, and the loss is that of the global batch."""
    wanted = test_proposal_network.gradients(toys.clip, alike(0, 4), 1)
    loss = wanted.pop("loss")
    for rank in (0, 1):
        result = torch.load(ranks / f"masks-{rank}.pt", weights_only=True)
        torch.testing.assert_close(result.pop("loss"), loss)
        assert_close(result, wanted)


def test_the_gradient_of_regions_and_their_pseudo_texts_is_that_of_one_process(ranks: Path) -> None:
    run = RunFolders(*(ranks / "run" / name for name in ("index", "proposals", "pairs", "images")))
    wanted = test_pseudo_text_training.gradients(ranks / "pseudo", run)
    for rank in (0, 1):
        result = torch.load(ranks / f"pseudo-{rank}.pt", weights_only=True)
        test_pseudo_text_training.assert_close(result, wanted)


def test_they_train_one_network_whose_loss_falls(ranks: Path) -> None:
    rows = [float(row["loss"]) for row in curves(ranks / "out")]
    assert len(rows) == 20 and sum(rows[-4:]) < 0.7 * sum(rows[:4])
    assert load_network(ranks / "out").metadata["names"] == list(THINGS)
