"""Training as a whole: exact resume, who learns and who does not, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.adapted import load_adapted, read_provenance
from ovseg.clip.save import PROMPTS, WEIGHTS
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.core.files import CURVES
from ovseg.core.options import CropOptions, FinetuneOptions, PromptOptions
from ovseg.engine.runtime import Runtime
from ovseg.training import adapt as module
from ovseg.training.adapt import adapt
from ovseg.training.contrastive import contrastive_step
from ovseg.training.distributed import split_batch
from ovseg.training.loop import StepResult
from tests.conftest import ROOT
from tests.training.conftest import write_set

SOURCE = {"mask_source": "ground_truth", "mask_licence": "Apache-2.0"}
SHARED: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "weight_decay": 0.2,
    "warmup_steps": 2,
    "templates": "single",
    "logit_scale": "train",
    "precision": "fp32",
}
FINETUNE = FinetuneOptions(lr=1e-3, **SHARED)
PROMPT = PromptOptions(lr=1e-2, depth=2, **SHARED)
CROP = CropOptions()

Options = FinetuneOptions | PromptOptions


def change(options: Options, **changes: Any) -> Any:
    return options.model_copy(update=changes)


def run(init: Path, shards: Path, out: Path, work: Path, options: Options, workers: int = 0, **runtime: Any) -> Path:
    adapt(init, shards, out, Runtime(workers=workers, work=work, **runtime), options, CROP, SOURCE)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    prompts = load_file(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    return {**load_file(folder / WEIGHTS), **prompts}


def same(first: Path, second: Path) -> set[str]:
    """Names of the weights that are bit for bit the same."""
    a, b = weights(first), weights(second)
    return {name for name in a.keys() & b.keys() if torch.equal(a[name], b[name])}


def test_finetuning_changes_the_image_tower_alone(base: Path, shards: Path, tmp_path: Path) -> None:
    out = run(base, shards, tmp_path / "ft", tmp_path / "w", FINETUNE)
    changed = weights(out).keys() - same(base, out)
    assert changed == {name for name in weights(base) if name.startswith("visual.")} | {"logit_scale"}
    assert not (out / PROMPTS).exists()


def test_prompt_tuning_changes_prompts_alone_and_stock_open_clip_still_sees_the_base(
    base: Path, shards: Path, tmp_path: Path
) -> None:
    fixed = change(PROMPT, logit_scale="fixed")
    out = run(base, shards, tmp_path / "mpt", tmp_path / "w", fixed)
    assert weights(base).keys() <= same(base, out)
    prompts = load_adapted(out).prompts
    assert prompts is not None
    assert prompts.shape == (2, 16, 32)
    assert open_clip.create_model(f"local-dir:{out}") is not None


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    return all(hashing.sha256_file(first / name) == hashing.sha256_file(second / name) for name in names)


def test_all_orders_come_from_init_alone(base: Path, shards: Path, tmp_path: Path) -> None:
    """FT then MPT keeps the finetuned tower; MPT then FT keeps the prompts; both at once trains both."""
    work = tmp_path / "w"
    finetuned = run(base, shards, tmp_path / "ft", work, FINETUNE)
    prompted = run(finetuned, shards, tmp_path / "ft-mpt", work, PROMPT)
    assert weights(finetuned).keys() - same(finetuned, prompted) == {"logit_scale"}
    first = run(base, shards, tmp_path / "mpt", work, PROMPT)
    then = run(first, shards, tmp_path / "mpt-ft", work, FINETUNE)
    assert "prompts" in same(first, then)
    assert "visual.proj" not in same(first, then)
    both = run(base, shards, tmp_path / "both", work, change(PROMPT, tower_lr=1e-3))
    assert not {"visual.proj", "prompts"} & same(first, both)
    assert [step["stage"] for step in read_provenance(then)["steps"]] == ["prompt", "finetune"]


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"max_steps": 0}])
def test_no_steps_pass_the_model_through(base: Path, shards: Path, tmp_path: Path, changes: Any) -> None:
    out = run(base, shards, tmp_path / "out", tmp_path / "w", change(PROMPT, **changes))
    assert same(base, out) == weights(base).keys() == weights(out).keys()
    assert read_provenance(out).get("steps", []) == []
    assert (out / CURVES).read_text().count("\n") == 1


@pytest.mark.parametrize("options", [FINETUNE, change(PROMPT, templates="random-per-step")])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_equals_uninterrupted_bit_for_bit(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options, workers: int
) -> None:
    def train(name: str) -> Path:
        return run(base, shards, tmp_path / name, tmp_path / f"w-{name}", options, workers, checkpoint_seconds=0)

    whole = train("whole")
    real, calls = contrastive_step, []

    def fails_at_fifth(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(module, "contrastive_step", fails_at_fifth)
    with pytest.raises(RuntimeError, match="power cut"):
        train("cut")
    assert not (tmp_path / "cut").exists()
    train("cut")
    assert len(calls) == 5 + 8 - 4  # of 8 steps, four were done before the cut
    assert same_files(whole, tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_continues_to_the_same_weights(
    base: Path, shards: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C hits the loader processes too, as it does on a terminal."""
    whole = run(base, shards, tmp_path / "whole", tmp_path / "a", change(FINETUNE, epochs=20), workers=1)
    code = (
        "import logging, sys; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
        "from tests.training.test_adapt import FINETUNE, change, run\n"
        "base, shards, out, work = map(Path, sys.argv[1:])\n"
        "run(base, shards, out, work, change(FINETUNE, epochs=20), workers=1, checkpoint_seconds=0)"
    )
    out, work = tmp_path / "killed", tmp_path / "b"
    command = [sys.executable, "-c", code, *map(str, (base, shards, out, work))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT}"}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(work.glob("finetune-*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert not out.exists()
    if number != signal.SIGKILL:
        assert "KeyboardInterrupt" in stderr
        assert "stopping" in stderr
    assert subprocess.run(command, env=environment, cwd=ROOT, timeout=120, check=False).returncode == 0
    assert same(whole, out) == weights(whole).keys()


def test_a_limit_of_steps_stops_a_run_with_a_checkpoint_and_the_next_run_continues(
    base: Path, shards: Path, tmp_path: Path
) -> None:
    whole = run(base, shards, tmp_path / "whole", tmp_path / "a", FINETUNE)
    for _ in range(2):  # 8 steps are 3 + 3 + 2
        with pytest.raises(KeyboardInterrupt):
            run(base, shards, tmp_path / "out", tmp_path / "b", FINETUNE, stop_after=3)
    out = run(base, shards, tmp_path / "out", tmp_path / "b", FINETUNE, stop_after=3)
    assert same(whole, out) == weights(whole).keys()


def test_a_finished_training_is_not_done_again(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    monkeypatch.setattr(module, "contrastive_step", None)
    run(base, shards, out, tmp_path / "w", FINETUNE)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_a_result_of_other_parameters_is_never_replaced(base: Path, shards: Path, tmp_path: Path) -> None:
    out = run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)
    with pytest.raises(OvsegError, match="fingerprint"):
        run(base, shards, out, tmp_path / "w", change(FINETUNE, seed=1))


def test_prompts_refuse_masks_without_a_blank_patch(base: Path, tmp_path: Path) -> None:
    shards = write_set(tmp_path / "boxes", all_foreground=True)
    with pytest.raises(OvsegError, match=r"first 64 samples"):
        run(base, shards, tmp_path / "out", tmp_path / "w", PROMPT)
    run(base, shards, tmp_path / "ft", tmp_path / "w", FINETUNE)  # the tower can learn from them


def test_a_loss_that_is_no_number_stops_with_step_samples_and_the_kept_checkpoint(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = contrastive_step

    def spoiled(*args: Any, step: int, **options: Any) -> torch.Tensor:
        loss = real(*args, step=step, **options)
        return loss * float("nan") if step == 3 else loss

    monkeypatch.setattr(module, "contrastive_step", spoiled)
    with pytest.raises(OvsegError, match=r"step 4 is nan.*checkpoint\.pt.*: \d{9}"):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE, checkpoint_seconds=0)
    saved = torch.load(next((tmp_path / "w").glob("*/checkpoint.pt")), weights_only=True)
    assert saved["step"] == 3
    assert all(tensor.isfinite().all() for tensor in saved["weights"].values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = contrastive_step

    def spoiled(tower: torch.nn.Module, *args: Any, step: int, **options: Any) -> torch.Tensor:
        loss = real(tower, *args, step=step, **options)
        if step == 7:  # the last one: no loss would ever show it
            next(p for p in tower.parameters() if p.grad is not None).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(module, "contrastive_step", spoiled)
    with pytest.raises(OvsegError, match=r"step 8 is [\d.]+, .*gradient inf"):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)
    assert not (tmp_path / "out").exists()
    listed = next((tmp_path / "w").glob("*/not-a-number-0.txt")).read_text().split()
    assert len(listed) == 16


def test_continuing_with_other_loader_processes_warns(
    base: Path, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE, stop_after=3)
    run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE, workers=2)
    assert "{'ranks': 1, 'workers': 0}" in caplog.text and "{'ranks': 1, 'workers': 2}" in caplog.text


def test_prompts_of_another_depth_are_not_continued(base: Path, shards: Path, tmp_path: Path) -> None:
    first = run(base, shards, tmp_path / "one", tmp_path / "w", PROMPT)
    with pytest.raises(OvsegError, match=r"prompt\.depth=3.*depth 2"):
        run(first, shards, tmp_path / "two", tmp_path / "w", change(PROMPT, depth=3))


def test_a_noun_that_is_not_listed_is_refused(base: Path, shards: Path, tmp_path: Path) -> None:
    (shards / "nouns.json").write_text('{"star": 0}')
    with pytest.raises(OvsegError, match=r"noun_id.*nouns\.json"):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)


def test_an_error_of_a_loading_process_is_one_line(base: Path, shards: Path, tmp_path: Path) -> None:
    (shards / "00000.tar").write_bytes((shards / "00000.tar").read_bytes()[:3000])
    with pytest.raises(OvsegError, match=r"1 of 16 samples") as raised:
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE, workers=2)
    assert "\n" not in str(raised.value)


def test_out_of_memory_names_the_variable_to_set(
    base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> StepResult:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(module, "contrastive_step", full)
    with pytest.raises(OvsegError, match=r"16 samples at a time.*OVSEG_MICRO_BATCH"):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)


def test_micro_batches_are_an_option_that_changes_the_result_by_rounding_alone(
    base: Path, shards: Path, tmp_path: Path
) -> None:
    whole = run(base, shards, tmp_path / "whole", tmp_path / "a", FINETUNE, workers=2)
    parts = run(base, shards, tmp_path / "parts", tmp_path / "b", FINETUNE, workers=2, micro_batch=4)
    parts_weights = weights(parts)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(parts_weights[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "runtime", "message"),
    [
        (change(FINETUNE, batch_size=65), {}, "batch_size=65.*64 samples"),
        (FINETUNE, {"micro_batch": 5}, "OVSEG_MICRO_BATCH=5.*16 pairs"),
        (change(PROMPT, depth=4), {}, r"depth 4.*1 to 3"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    base: Path, shards: Path, tmp_path: Path, options: Options, runtime: dict[str, Any], message: str
) -> None:
    with pytest.raises(OvsegError, match=message):
        run(base, shards, tmp_path / "out", tmp_path / "w", options, **runtime)


def test_more_processes_than_divide_the_batch_are_refused() -> None:
    from ovseg.training.distributed import World

    with pytest.raises(OvsegError, match=r"batch_size=16.*3 processes"):
        split_batch("finetune", 16, World(0, 3, torch.device("cpu")), None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "step.json").unlink(), r"step\.json"),
        (lambda s: (s / "sizes.json").unlink(), r"sizes\.json"),
        (lambda s: (s / "sizes.json").write_text("{"), r"sizes\.json"),
        (lambda s: (s / "00001.tar").unlink(), r"00001\.tar"),
        (lambda s: (s / "nouns.json").unlink(), r"nouns\.json"),
        (lambda s: (s / "00000.tar").write_bytes((s / "00000.tar").read_bytes()[:3000]), r"00000\.tar.* 1 of 16"),
        (lambda s: (s / "00000.tar").write_bytes((s / "00000.tar").read_bytes()[:6000]), r"00000\.tar|a shard"),
    ],
)
def test_damaged_shards_are_refused(base: Path, shards: Path, tmp_path: Path, damage: Any, message: str) -> None:
    damage(shards)
    with pytest.raises(OvsegError, match=message):
        run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)


def test_shards_of_another_tool_are_refused_and_not_read_for_ever(base: Path, shards: Path, tmp_path: Path) -> None:
    import webdataset as wds

    (shards / "sizes.json").write_text(json.dumps({f"{i:05d}.tar": 1 for i in range(4)}))
    for path in shards.glob("*.tar"):
        with path.open("wb") as stream, wds.TarWriter(stream) as tar:
            tar.write({"__key__": path.stem, "jpg": b"x", "txt": "a star"})
    with pytest.raises(OvsegError, match=r"mask\.png"):
        run(base, shards, tmp_path / "out", tmp_path / "w", change(FINETUNE, batch_size=2))


def test_the_curves_hold_every_step_of_a_short_training(base: Path, shards: Path, tmp_path: Path) -> None:
    out = run(base, shards, tmp_path / "out", tmp_path / "w", FINETUNE)
    lines = (out / CURVES).read_text().splitlines()
    assert lines[0].split("\t") == ["step", "loss", "learning_rate", "logit_scale"]
    rows = [list(map(float, line.split("\t"))) for line in lines[1:]]
    assert [row[0] for row in rows] == list(range(1, 9))
    rates = [row[2] for row in rows]
    assert rates[0] == pytest.approx(5e-4)  # warm-up over two steps, then a cosine to 0
    assert max(rates) == rates[1] == pytest.approx(1e-3)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert json.loads((out / "step.json").read_text())["counts"] == {"steps": 8}


def test_training_learns_what_there_is_to_learn(base: Path, tmp_path: Path) -> None:
    """On 64 samples of noise, the loss falls well below where it began."""
    shards = write_set(tmp_path / "shards")
    options = change(FINETUNE, epochs=40, crop_scale=1.0, precision="bf16")
    out = run(base, shards, tmp_path / "out", tmp_path / "w", options)
    losses = [float(line.split("\t")[1]) for line in (out / CURVES).read_text().splitlines()[1:]]
    assert sum(losses[-8:]) / 8 < 0.7 * sum(losses[:8]) / 8
