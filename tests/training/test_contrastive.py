"""The gradient of a step is that of the global batch, on any number of micro-batches (`test_two_processes`: of processes)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.prompts import new_prompts
from ovseg.training.contrastive import contrastive_step
from ovseg.training.distributed import World
from ovseg.training.loader import Batch
from ovseg.training.tower import Tower

WORLD = World(0, 1, torch.device("cpu"))


def batch_of(first: int, number: int) -> Batch:
    """Pairs `first` to `first + number` of an endless list."""
    crops, masks = [], []
    for i in range(first, first + number):
        generator = torch.Generator().manual_seed(i)
        crops.append(torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=generator))
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[: 4 + i % 20, : 8 + i % 11] = True
        masks.append(mask)
    noun_id = torch.arange(first, first + number) % 5
    keys = [str(i) for i in range(first, first + number)]
    return {"crop": torch.stack(crops), "mask": torch.stack(masks), "text": keys, "noun_id": noun_id, "key": keys}


def gradients(
    base: Path,
    batches: list[Batch],
    world: World = WORLD,
    wrap: Callable[[Tower], torch.nn.Module] = lambda tower: tower,
) -> dict[str, Tensor]:
    """The loss and all gradients of one step in which tower, prompts and logit scale learn."""
    clip = load_adapted(base)
    tower = Tower(clip, new_prompts(clip.model.visual, 2, 0), train_tower=True, train_prompts=True)  # type: ignore[arg-type]
    scale = torch.nn.Parameter(torch.tensor(2.0))
    text_embeddings = torch.nn.functional.normalize(
        torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(9)), dim=-1
    )
    loss = contrastive_step(
        wrap(tower),
        scale,
        batches,
        text_embeddings,
        world,
        loss="multi_positive",
        precision="fp32",
        seed=0,
        step=0,
    )
    by_name = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    assert scale.grad is not None
    return {**by_name, "logit_scale": scale.grad, "loss": loss}


def test_it_is_the_gradient_of_the_loss_of_the_whole_batch(base: Path) -> None:
    """Against autograd through one graph of everything."""
    from ovseg.training.losses import contrastive

    clip = load_adapted(base)
    tower = Tower(clip, new_prompts(clip.model.visual, 2, 0), train_tower=True, train_prompts=True)  # type: ignore[arg-type]
    scale = torch.nn.Parameter(torch.tensor(2.0))
    text_embeddings = torch.nn.functional.normalize(
        torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(9)), dim=-1
    )
    batch = batch_of(0, 12)
    crops = tower(batch["crop"], batch["mask"])
    loss = contrastive(crops, text_embeddings[0, batch["noun_id"]], batch["noun_id"], scale.exp(), "multi_positive")
    torch.autograd.backward(loss)
    results = gradients(base, [batch])
    torch.testing.assert_close(results["loss"], loss.detach())
    torch.testing.assert_close(results["logit_scale"], scale.grad)
    wanted = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    assert wanted.keys() == results.keys() - {"loss", "logit_scale"}
    for name, gradient in wanted.items():
        torch.testing.assert_close(results[name], gradient, atol=1e-6, rtol=1e-4)


def test_micro_batches_give_the_gradient_of_the_whole(base: Path) -> None:
    whole = gradients(base, [batch_of(0, 12)])
    parts = gradients(base, [batch_of(0, 4), batch_of(4, 4), batch_of(8, 4)])
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4)


def test_only_what_is_trained_gets_gradients(base: Path) -> None:
    clip = load_adapted(base)
    prompts = new_prompts(clip.model.visual, 2, 0)  # type: ignore[arg-type]
    text_embeddings = torch.nn.functional.normalize(torch.randn(1, 5, 16), dim=-1)
    scale = torch.tensor(2.0)
    for train_tower, train_prompts in ((True, False), (False, True)):
        tower = Tower(clip, prompts, train_tower=train_tower, train_prompts=train_prompts)
        contrastive_step(
            tower, scale, [batch_of(0, 6)], text_embeddings, WORLD, loss="info_nce", precision="bf16", seed=0, step=0
        )
        assert tower.prompts is not None
        assert (tower.prompts.grad is not None) == train_prompts
        has_gradient = {name: p.grad is not None for name, p in tower.named_parameters() if name != "prompts"}
        assert set(has_gradient.values()) == {train_tower}
        texts = [p for name, p in clip.model.named_parameters() if not name.startswith("visual")]
        assert all(p.grad is None for p in texts)
        tower.zero_grad()


def test_a_frozen_tower_gives_what_a_trained_one_gives(base: Path) -> None:
    """Its attention sees tokens in another order of memory, and computes the same."""
    clip = load_adapted(base)
    prompts, batch = new_prompts(clip.model.visual, 2, 0), batch_of(0, 6)  # type: ignore[arg-type]
    trained = Tower(load_adapted(base), prompts, train_tower=True, train_prompts=True)
    frozen = Tower(clip, prompts, train_tower=False, train_prompts=True)
    torch.testing.assert_close(frozen(batch["crop"], batch["mask"]), trained(batch["crop"], batch["mask"]))
