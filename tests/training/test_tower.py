"""Towers of other makes are trained as CLIP's is; mask prompts need one with patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.adapted import load_adapted
from ovseg.clip.save import WEIGHTS
from ovseg.core.errors import OvsegError
from ovseg.training.tower import Tower
from tests.towers import TOWERS, WITHOUT_PATCHES, build, save
from tests.training.test_adapt import FINETUNE, PROMPT, change, run

SHORT = change(FINETUNE, max_steps=2)


@pytest.mark.parametrize("name", TOWERS)
def test_what_is_trained_sees_what_is_used(name: str, tmp_path: Path) -> None:
    """The module that training wraps gives the features of `encode_crops`."""
    clip = load_adapted(save(name, tmp_path))
    crops = torch.randint(256, (3, 3, clip.size, clip.size), dtype=torch.uint8)
    wanted = clip.encode_crops(crops)
    tower = Tower(clip, None, train_tower=True, train_prompts=False)
    features = tower(crops, torch.ones(3, clip.size, clip.size, dtype=torch.bool))
    torch.testing.assert_close(features.detach(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TOWERS)
def test_finetuning_changes_the_image_tower_alone(name: str, shards: Path, tmp_path: Path) -> None:
    """And what comes out is a CLIP of the same kind: its normalization, its bias and its text tower as they were."""
    base = save(name, tmp_path / "base")
    run(base, shards, tmp_path / "out", tmp_path / "w", SHORT)
    before, after = load_file(base / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "logit_scale" in changed
    assert len(changed) > 4 and all(key.startswith("visual.") for key in changed - {"logit_scale"})
    clip = load_adapted(tmp_path / "out")
    assert clip.mean.tolist() == [0.5, 0.5, 0.5]
    assert torch.equal(clip.encode_texts(["a star"]), load_adapted(base).encode_texts(["a star"]))


@pytest.mark.parametrize("name", WITHOUT_PATCHES)
def test_mask_prompts_of_a_tower_without_patches_say_what_works_with_it(
    name: str, shards: Path, tmp_path: Path
) -> None:
    base = save(name, tmp_path / "base")
    with pytest.raises(OvsegError, match=rf"prompt: .*{WITHOUT_PATCHES[name]}"):
        run(base, shards, tmp_path / "out", tmp_path / "w", PROMPT)


@pytest.mark.parametrize("name", ["siglip", "native average"])
def test_mask_prompts_work_where_a_class_token_is_not_what_is_read(name: str, shards: Path, tmp_path: Path) -> None:
    base = save(name, tmp_path / "base")
    options = change(PROMPT, max_steps=2)
    run(base, shards, tmp_path / "out", tmp_path / "w", options)
    clip = load_adapted(tmp_path / "out")
    crops = torch.randint(256, (2, 3, clip.size, clip.size), dtype=torch.uint8)
    masks = torch.zeros(2, clip.size, clip.size, dtype=torch.bool)
    masks[:, : clip.size // 2] = True
    assert not torch.allclose(clip.encode_crops(crops, masks), load_adapted(base).encode_crops(crops), atol=1e-4)


def test_a_logit_scale_beyond_clips_bound_is_not_cut(shards: Path, tmp_path: Path) -> None:
    """SigLIP's is about 117: cutting it to 100 would change the model without any gradient."""
    from ovseg.clip.save import save_clip

    network = build(TOWERS["native average"])
    network.logit_scale.data.fill_(4.77)
    save_clip(network, TOWERS["native average"], tmp_path / "base")
    options = change(SHORT, lr=1e-6, max_steps=1, warmup_steps=0)
    run(tmp_path / "base", shards, tmp_path / "out", tmp_path / "w", options)
    assert load_file(tmp_path / "out" / WEIGHTS)["logit_scale"].item() == pytest.approx(4.77, abs=1e-4)
