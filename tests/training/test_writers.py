"""Curves while a training runs: the numbers of training.tsv for each writer, rate and share of the peak; the training stays."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ovseg.clip.adapted import load_adapted
from ovseg.core.errors import OvsegError
from ovseg.core.hashing import sha256_file
from ovseg.engine.runtime import Runtime
from ovseg.training import adapt as adapt_module
from ovseg.training.contrastive import contrastive_step
from ovseg.training.curves import EARLY_ROWS, is_learning
from ovseg.training.proposal_network import train_proposal_network
from ovseg.training.tower import Tower
from ovseg.training.writers import WRITERS, Row, Writers
from tests.conftest import Coco, Toys
from tests.training import test_proposal_network
from tests.training.conftest import SMALL
from tests.training.test_adapt import FINETUNE, PROMPT, Options, change, run, same_files
from tests.training.test_contrastive import WORLD, batch_of

ROWS = [{"step": 2.0, "loss": 0.5, "learning_rate": 0.1}, {"step": 4.0, "loss": 0.25, "learning_rate": 0.05}]


def write(name: str, folder: Path, rows: list[dict[str, float]]) -> None:
    with Writers([name], folder) as writers:
        for row in rows:
            writers.count(64)
            writers.write(row)


def test_tensorboard_gets_the_rows_the_rate_and_their_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `watch` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path, ROWS)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(2, 0.5), (4, 0.25)]
    assert all(one.value > 0 for one in events.Scalars("samples_per_second"))


def test_dvclive_gets_the_rows_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive", reason="the extra `watch` is not installed")
    monkeypatch.chdir(tmp_path)
    for row in ROWS:
        write("dvclive", tmp_path, [row])
    lines = (tmp_path / "dvclive" / "plots" / "metrics" / "loss.tsv").read_text().split()
    assert lines == ["step", "loss", "2", "0.5", "4", "0.25"]
    summary = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert summary["loss"] == 0.25 and summary["step"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"dvclive"}


def test_an_unknown_writer_and_a_missing_package_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OvsegError, match="paper; there are dvclive, tensorboard"):
        Writers(["paper"], tmp_path)
    for module in ("dvclive", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in WRITERS:
        with pytest.raises(OvsegError, match=r"pip install -e '\.\[watch\]'"):
            Writers([name], tmp_path)


@pytest.mark.parametrize(
    ("slope", "answer"), [(-0.1, "falls: 4.802 -> 3.298"), (0.1, "RISES"), (0.0, "does not change beyond its noise")]
)
def test_the_log_says_once_whether_the_loss_falls(slope: float, answer: str) -> None:
    rows = [{"step": i + 1.0, "loss": 5 + slope * i + 0.01 * (-1) ** i} for i in range(2 * EARLY_ROWS)]
    said = {number: text for number in range(len(rows) + 1) if (text := is_learning(rows[:number]))}
    assert list(said) == [EARLY_ROWS] and answer in said[EARLY_ROWS]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[int, Row]:
    """What a further writer, "kept", is given: rows by step."""
    rows: dict[int, Row] = {}

    class Kept:
        def write(self, step: int, row: Row) -> None:
            rows[step] = row

        def close(self) -> None:
            pass

    monkeypatch.setitem(WRITERS, "kept", lambda _: Kept())
    return rows


@pytest.mark.parametrize(
    ("options", "workers"),
    [(FINETUNE, 0), (change(PROMPT, templates="random-per-step"), 2)],
    ids=["finetune", "prompt"],
)
def test_a_training_with_writers_has_the_checkpoints_curves_and_weights_of_one_without_bit_for_bit(
    base: Path, shards: Path, tmp_path: Path, written: dict[int, Row], options: Options, workers: int
) -> None:
    def train(name: str, **runtime: Any) -> tuple[str, Path]:
        out, work = tmp_path / name, tmp_path / f"work-{name}"
        with pytest.raises(KeyboardInterrupt):
            run(base, shards, out, work, options, workers, stop_after=3, **runtime)
        (checkpoint,) = work.glob("*/checkpoint.pt")
        return sha256_file(checkpoint), run(base, shards, out, work, options, workers, **runtime)

    checkpoint, out = train("with", writers=("kept",))
    wanted_checkpoint, wanted = train("without")
    assert checkpoint == wanted_checkpoint and same_files(out, wanted)
    assert list(written) == list(range(1, 9))
    counted = {step: row["share_of_peak"] for step, row in written.items() if "share_of_peak" in row}
    assert list(counted) == [2, 3, 5, 6, 7, 8]  # from the second step of each of the two runs
    assert all(share > 0 for share in counted.values())


def test_a_training_of_the_proposal_network_with_writers_gives_the_same_network(
    index: Path, coco: Coco, toys: Toys, tmp_path: Path, written: dict[int, Row]
) -> None:
    """Its matching runs modules without gradients, on tensors that have some."""
    options = test_proposal_network.change(test_proposal_network.OPTIONS, annotations=coco.instances)
    for name, writers in (("with", ("kept",)), ("without", ())):
        runtime = Runtime(workers=1, work=tmp_path / f"work-{name}", writers=writers)
        train_proposal_network(index, coco.images, toys.clip, tmp_path / name, runtime, options)
    assert same_files(tmp_path / "with", tmp_path / "without")
    assert written[options.steps]["share_of_peak"] > 0


def test_the_second_step_of_a_run_is_counted_and_only_with_writers(
    base: Path, shards: Path, tmp_path: Path, written: dict[int, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes of the loader are forked in the first one, and would count with it."""
    counters = []

    def step(*args: Any, **options: Any) -> torch.Tensor:
        counters.append(len(_get_current_dispatch_mode_stack()))
        return contrastive_step(*args, **options)

    monkeypatch.setattr(adapt_module, "contrastive_step", step)
    run(base, shards, tmp_path / "with", tmp_path / "a", FINETUNE, writers=("kept",))
    assert counters == [0, 1, 0, 0, 0, 0, 0, 0] and len(written) == 8
    run(base, shards, tmp_path / "without", tmp_path / "b", FINETUNE)
    assert not any(counters[8:])


@pytest.mark.parametrize("parts", [1, 2])
def test_the_operations_of_a_step_are_those_of_its_matrix_products(
    base: Path, tmp_path: Path, written: dict[int, Row], parts: int
) -> None:
    """Two for each multiplication with its addition, by the shapes of the tower; within 1 %, which is room for the loss.

    A backward pass has twice the products of the forward pass, but the convolution, whose images need no gradient, as many.
    In several micro-batches the forward pass is computed twice.
    """
    images, vision, joint = 8, SMALL["vision_cfg"], SMALL["embed_dim"]
    width, patches = vision["width"], (vision["image_size"] // vision["patch_size"]) ** 2
    tokens = patches + 1
    convolution = 2 * patches * 3 * vision["patch_size"] ** 2 * width
    block = 2 * tokens * (3 + 1 + 4 + 4) * width**2 + 2 * 2 * tokens**2 * width  # linear layers; scores and their use
    products = vision["layers"] * block + 2 * width * joint
    expected = images * ((parts + 2) * products + (parts + 1) * convolution)

    tower = Tower(load_adapted(base), None, train_tower=True, train_prompts=False)
    texts = torch.nn.functional.normalize(torch.ones(1, 5, joint), dim=-1)
    batches = [batch_of(i * images // parts, images // parts) for i in range(parts)]
    with Writers(["kept"], tmp_path) as writers:
        with writers.counting():
            contrastive_step(
                tower, torch.tensor(2.0), batches, texts, WORLD, loss="multi_positive", precision="fp32", seed=0, step=0
            )
        writers.count(images)
        writers.count(images)
        writers.write(ROWS[0])
    assert writers.operations == pytest.approx(expected, rel=0.01)
    assert writers.operations and writers.peak
    steps_per_second = written[2]["samples_per_second"] / images
    assert math.isclose(written[2]["share_of_peak"], writers.operations * steps_per_second / writers.peak)


def test_without_writers_nothing_is_measured_or_counted() -> None:
    with Writers() as writers, writers.counting():
        assert not _get_current_dispatch_mode_stack()
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert writers.peak is None and writers.operations is None
