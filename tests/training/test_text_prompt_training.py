"""Learning text prompts: the loss written out, who learns and who does not, exact resume, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.save import save_clip
from ovseg.clip.text_prompts import TEXT_PROMPTS, new_text_prompts
from ovseg.core.errors import OvsegError
from ovseg.core.files import CURVES
from ovseg.core.options import CropOptions, FinetuneOptions
from ovseg.engine.runtime import Runtime
from ovseg.training import text_prompt_training as module
from ovseg.training.adapt import adapt
from ovseg.training.distributed import World
from ovseg.training.loader import Batch, split
from ovseg.training.text_prompt_training import PromptedNames, learn_text_prompts, prompts_step
from ovseg.training.tower import Tower
from tests.conftest import Coco, random_clip
from tests.training.conftest import NOUNS, SMALL
from tests.training.test_adapt import FINETUNE, SOURCE, same, same_files, weights
from tests.training.test_monitor import curve, measured
from tests.training.test_monitor import split as split_of

LONGER: dict[str, Any] = {**SMALL, "text_cfg": {**SMALL["text_cfg"], "context_length": 32}}
OPTIONS = FinetuneOptions(
    method="text_prompts", epochs=2, batch_size=16, lr=2e-2, weight_decay=5e-4, warmup_steps=2, precision="fp32"
)
WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP whose text tower has room for 16 vectors and a name."""
    folder = tmp_path_factory.mktemp("longer") / "base"
    save_clip(random_clip(LONGER), LONGER, folder)
    return folder


def run(init: Path, shards: Path, out: Path, options: FinetuneOptions = OPTIONS, **runtime: Any) -> Path:
    work = Runtime(workers=0, work=out.parent / "work", **runtime)
    learn_text_prompts(init, shards, out, work, options, CropOptions(), SOURCE)
    return out


def batch_of(clip: Clip, size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (size, 3, clip.size, clip.size), generator=generator, dtype=torch.uint8)
    masks = torch.rand(size, clip.size, clip.size, generator=generator) > 0.5
    masks[1] = False
    ids = torch.randint(0, len(NOUNS), (size,), generator=generator)
    return {"crop": crops, "mask": masks, "text": [""] * size, "noun_id": ids, "key": list(map(str, range(size)))}


@pytest.mark.parametrize("micro_size", [3, 8])
def test_the_loss_is_its_formula_written_out(longer: Path, micro_size: int) -> None:
    """The mean over crops with foreground of -log softmax(100 cosines)[noun], of texts that `Clip` embeds the same way."""
    clip = load_adapted(longer)
    prompts = new_text_prompts(clip.model, 0)
    batch = batch_of(clip, 8)
    texts = replace(clip, text_prompts=prompts).encode_names(list(NOUNS))
    expected, right = [], 0
    for crop, mask, noun in zip(batch["crop"], batch["mask"], batch["noun_id"].tolist(), strict=True):
        if mask.any():
            logits = 100 * texts @ clip.encode_crops(crop[None])[0]
            expected.append(-float(logits.log_softmax(0)[noun]))
            right += int(logits.argmax()) == noun
    names = PromptedNames(clip, prompts, list(NOUNS))
    tower = Tower(clip, None, train_tower=False, train_prompts=False)
    loss, accuracy = prompts_step(tower, names, split(batch, micro_size), WORLD, "fp32")
    assert len(expected) == 7 and loss == pytest.approx(sum(expected) / 7, rel=1e-3)
    assert accuracy == pytest.approx(right / 7)
    assert names.prompts.grad is not None and names.prompts.grad.abs().sum(1).all()
    assert {name for name, p in names.named_parameters() if p.grad is not None} == {"prompts"}


def test_the_prompts_alone_are_learnt_and_loaded_with_the_folder(longer: Path, shards: Path, tmp_path: Path) -> None:
    out = run(longer, shards, tmp_path / "out")
    assert same(longer, out) == weights(longer).keys() == weights(out).keys()
    before, after = new_text_prompts(load_adapted(longer).model, OPTIONS.seed), load_adapted(out).text_prompts
    assert after is not None and after.shape == (16, 16) and not torch.equal(before, after)
    assert read_provenance(out)["steps"][0]["recipe"]["method"] == "text_prompts"
    assert "text prompts" in (out / "README.md").read_text()
    assert (out / CURVES).read_text().splitlines()[0].split("\t") == ["step", "loss", "learning_rate", "accuracy"]


def test_the_prompts_learn_what_there_is_to_learn(longer: Path) -> None:
    """On one batch the loss falls, by the optimizer of the training."""
    clip = load_adapted(longer)
    names = PromptedNames(clip, new_text_prompts(clip.model, 0), list(NOUNS))
    tower, batch = Tower(clip, None, train_tower=False, train_prompts=False), batch_of(clip, 8)
    optimizer = torch.optim.SGD([names.prompts], lr=0.1, momentum=module.MOMENTUM)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(prompts_step(tower, names, [batch], WORLD, "fp32")[0])
        names.prompts.grad = F.normalize(names.prompts.grad, dim=(0, 1))  # type: ignore[arg-type]
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_resume_equals_uninterrupted_bit_for_bit(longer: Path, shards: Path, tmp_path: Path) -> None:
    whole = run(longer, shards, tmp_path / "whole" / "out")
    for _ in range(2):  # 8 steps are 3 + 3 + 2
        with pytest.raises(KeyboardInterrupt):
            run(longer, shards, tmp_path / "cut" / "out", stop_after=3)
    assert same_files(whole, run(longer, shards, tmp_path / "cut" / "out", stop_after=3))


def test_no_steps_pass_the_model_through_and_later_trainings_keep_its_prompts(
    longer: Path, shards: Path, tmp_path: Path
) -> None:
    unchanged = run(longer, shards, tmp_path / "a" / "out", OPTIONS.model_copy(update={"epochs": 0}))
    assert not (unchanged / TEXT_PROMPTS).exists()
    first = run(longer, shards, tmp_path / "b" / "out")
    runtime = Runtime(workers=0, work=tmp_path / "work")
    adapt(first, shards, tmp_path / "ft", runtime, FINETUNE, CropOptions(), SOURCE)
    assert (tmp_path / "ft" / TEXT_PROMPTS).read_bytes() == (first / TEXT_PROMPTS).read_bytes()
    assert [step["stage"] for step in read_provenance(tmp_path / "ft")["steps"]] == ["finetune", "finetune"]


def test_a_text_tower_without_room_is_refused(base: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"method=text_prompts: 16 context vectors leave no room.*16 positions"):
        run(base, shards, tmp_path / "out")


def test_shards_without_a_manifest_are_refused(longer: Path, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="no finished shards"):
        run(longer, tmp_path, tmp_path / "out")


def test_they_are_watched_with_the_names_behind_them(longer: Path, shards: Path, coco: Coco, tmp_path: Path) -> None:
    options, heldout = OPTIONS.model_copy(update={"epochs": 1, "heldout_every": 1}), split_of(coco)
    work = Runtime(workers=0, work=tmp_path / "work")
    learn_text_prompts(longer, shards, tmp_path / "out", work, options, CropOptions(), SOURCE, heldout)
    assert curve(tmp_path / "out")[-1] == pytest.approx(measured(load_adapted(tmp_path / "out"), heldout), abs=1e-6)


def test_a_clip_that_sees_whole_images_learns_no_text_prompts_but_is_copied(
    longer: Path, shards: Path, tmp_path: Path
) -> None:
    clip, settings = load_adapted(longer), RegionSettings("region_tokens", 0)
    save_adapted(clip.model, LONGER, None, {}, tmp_path / "encoder", clip.tokenizer, regions=settings)
    with pytest.raises(OvsegError, match=r"finetune trains on crops, but .*encoder is made for .* region_tokens"):
        run(tmp_path / "encoder", shards, tmp_path / "out")
    copied = run(tmp_path / "encoder", shards, tmp_path / "copy", OPTIONS.model_copy(update={"epochs": 0}))
    assert load_adapted(copied).regions == settings
