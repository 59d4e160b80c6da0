"""The blocks that train a ViT on a CPU give what the tower's own blocks give, and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovseg.clip.prompts import mask_prompts_applied, new_prompts
from ovseg.clip.region_tokens import region_tokens
from ovseg.training import cpu_blocks
from ovseg.training.cpu_blocks import trainable_cpu_blocks
from ovseg.training.precision import autocast_context
from tests.conftest import TINY, random_clip

CPU = torch.device("cpu")
NUMBER, REGIONS, SIZE, GRID = 4, 3, 32, 4


def tower(**changes: Any) -> nn.Module:
    """A small ViT with three blocks."""
    vision = {**TINY["vision_cfg"], "layers": 3, **changes.pop("vision_cfg", {})}
    torch.manual_seed(0)
    return random_clip({**TINY, **changes, "vision_cfg": vision}).visual  # type: ignore[no-any-return]


def images() -> Tensor:
    return torch.randn(NUMBER, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def embed_whole(visual: nn.Module) -> Tensor:
    return visual(images())  # type: ignore[no-any-return]


def embed_with_prompts(visual: nn.Module) -> Tensor:
    masks = torch.zeros(NUMBER, SIZE, SIZE, dtype=torch.bool)
    masks[:, :16] = True
    with mask_prompts_applied(visual, new_prompts(visual, 2, 0), masks):
        return visual(images())  # type: ignore[no-any-return]


def embed_regions(visual: nn.Module) -> Tensor:
    masks = torch.rand(NUMBER, REGIONS, GRID, GRID, generator=torch.Generator().manual_seed(2))
    return region_tokens(visual, images(), masks, start_block=1)


EMBED = [embed_whole, embed_with_prompts, embed_regions]


def gradients(visual: nn.Module, embeddings: Tensor) -> dict[str, Tensor]:
    """The gradients of every weight, of a sum of the embeddings with fixed factors."""
    visual.zero_grad()
    factors = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(3))
    torch.autograd.backward((embeddings.float() * factors).sum())
    return {name: p.grad.clone() for name, p in visual.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("embed", EMBED)
@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}], ids=["gelu", "quick gelu"])
def test_embeddings_and_gradients_are_those_of_the_own_blocks(embed: Any, changes: dict[str, Any]) -> None:
    visual = tower(**changes)
    wanted = embed(visual)
    wanted_gradients = gradients(visual, wanted)
    with trainable_cpu_blocks(visual, CPU):
        found = embed(visual)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    found_gradients = gradients(visual, found)
    assert len(found_gradients) == len(wanted_gradients) > 30
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=2e-4, rtol=1e-4, msg=name)


@pytest.mark.bf16
@pytest.mark.parametrize("embed", EMBED)
def test_in_bf16_they_are_as_near_to_float32_as_those_of_the_own_blocks(embed: Any) -> None:
    """The largest error of an embedding, and that of all gradients together, are at most a third more; both are of rounding."""
    visual = tower()
    exact = embed(visual)
    exact_gradients = gradients(visual, exact)

    def errors() -> tuple[float, float]:
        with autocast_context(CPU, "bf16"):
            found = embed(visual)
        of_weights = gradients(visual, found)
        differences = [(of_weights[name] - gradient).square().sum() for name, gradient in exact_gradients.items()]
        return float((found.detach().float() - exact.detach()).norm()), float(torch.stack(differences).sum().sqrt())

    own = errors()
    with trainable_cpu_blocks(visual, CPU):
        ours = errors()
    assert 0 < ours[0] <= own[0] * 4 / 3
    assert 0 < ours[1] <= own[1] * 4 / 3


def test_a_frozen_tower_passes_the_gradient_on_and_gets_none() -> None:
    visual = tower().requires_grad_(False)
    pixels = images().requires_grad_()
    with trainable_cpu_blocks(visual, CPU):
        visual(pixels).sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in visual.parameters())


def test_the_tower_is_as_it_was_after_the_context_and_after_an_error() -> None:
    visual = tower()
    with pytest.raises(RuntimeError), trainable_cpu_blocks(visual, CPU):
        visual(torch.zeros(1, 4, SIZE, SIZE))
    assert not any("forward" in vars(module) for module in visual.modules())


def test_a_block_with_layer_scale_and_a_tower_elsewhere_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(cpu_blocks, "run_block", refuse)
    with trainable_cpu_blocks(scaled := tower(vision_cfg={"ls_init_value": 0.1}), CPU):
        scaled(images())
    with trainable_cpu_blocks(plain := tower(), torch.device("cuda")):
        plain(images())
    with pytest.raises(AssertionError), trainable_cpu_blocks(plain, CPU):
        plain(images())
