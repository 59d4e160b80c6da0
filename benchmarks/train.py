"""Speed of the steps of finetuning and mask prompt tuning, compared with plain steps of the same work.

    python -m benchmarks train          about 8 minutes on two cores

ViT-B-16 with random weights (on a GPU also ViT-L-14 with batches of 256) and the demo's CLIP, random crops of which half is
background, bf16, AdamW:

    finetune           our step: image tower, precomputed text embeddings, global loss
    plain              an ordinary open_clip step with the same batch: both towers forward and backward, `ClipLoss`
    plain, fused       the same with the attention kernel that torch chooses
    prompt             our step: frozen image tower, three layers of mask prompts
    input gradient     the same tower forward, and backward to its input without weight gradients: the minimum of a prompt step

"fraction of peak" is the arithmetic of a finetune step, as torch counts it, divided by that of the fastest large bf16 matrix
product on the same device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import open_clip
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs
from benchmarks.results import Measurement, Options, Result, Row, Target, Variant, interleave, medians
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.prompts import new_prompts
from ovseg.core.arithmetic import autocast, matrix_peak
from ovseg.core.crops import normalize
from ovseg.engine.runtime import devices
from ovseg.training.contrastive import contrastive_step
from ovseg.training.cpu_blocks import trainable_cpu_blocks
from ovseg.training.distributed import World
from ovseg.training.loader import Batch
from ovseg.training.precision import autocast_context
from ovseg.training.tower import Tower, parameter_groups

REPEATS, NOUNS = 5, 100
DEMO = f"local-dir:{inputs.ROOT / 'data' / 'demo' / 'clip'}"


def run(options: Options) -> Result:
    device = torch.device(devices("auto")[0])
    sizes = {"ViT-B-16": 8 if options.smoke else 32} | ({"ViT-L-14": 256} if device.type == "cuda" else {DEMO: 128})
    rows: list[Row] = []
    measurements: dict[str, list[Measurement]] = {}
    targets: list[Target] = []
    memory: dict[tuple[str, str], float] = {}
    peak = matrix_peak(device)
    for weights, size in sizes.items():
        model = "demo's CLIP" if weights == DEMO else weights
        variants = _variants(weights, size, device)
        memory |= {(model, name): _memory(variant, device) for name, variant in variants.items()}
        of_model = interleave(variants, 1 if options.smoke else REPEATS)
        rates = medians(of_model)
        measurements |= {f"{name}, {model}": values for name, values in of_model.items()}
        fraction = {"finetune": finetune_flops(weights, device) * rates["finetune"] / peak}
        for name in variants:
            row: Row = {
                "model": model,
                "variant": name,
                "batch": size,
                "samples/s": rates[name],
                "steps/s": rates[name] / size,
            }
            if device.type == "cuda":
                row |= {"GiB": memory[model, name], "fraction of peak": fraction.get(name, math.nan)}
            rows.append(row)
        targets += [
            Target(f"finetune / plain, {model}", rates["finetune"] / rates["plain"], 1.2),
            Target(f"prompt / input gradient, {model}", rates["prompt"] / rates["input gradient"], 0.9),
            Target(f"fraction of the bf16 peak, {model}", fraction["finetune"], 0.45 if device.type == "cuda" else 0.0),
        ]
    setup: dict[str, str | float] = {"device": device.type, "precision": "bf16", "peak TFLOP/s": peak / 1e12}
    return Result(setup, rows, targets, measurements)


def _memory(variant: Variant, device: torch.device) -> float:
    """GiB that a variant allocates: activations, gradients and the state of the optimizer."""
    if device.type != "cuda":
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    variant(0)
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def finetune_rate(model: str, size: int, device: torch.device) -> Variant:
    """Our finetune step; its rate is in samples a second."""
    return _ours(_load(model, device), size, prompts=False)


def prompt_rate(model: str, size: int, device: torch.device) -> Variant:
    """Our step of mask prompt tuning, with a frozen tower; its rate is in samples a second."""
    return _ours(_load(model, device), size, prompts=True)


def _load(model: str, device: torch.device) -> Clip:
    """A CLIP with random weights, or that of a folder."""
    return load_clip(model, None if model.startswith("local-dir:") else "random", str(device))


def _variants(model: str, size: int, device: torch.device) -> dict[str, Variant]:
    def math_on_cpu() -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()

    return {
        "finetune": finetune_rate(model, size, device),
        "plain": _plain(_load(model, device), size, math_on_cpu),
        "plain, fused": _plain(_load(model, device), size, nullcontext),
        "prompt": prompt_rate(model, size, device),
        "input gradient": _input_gradient(_load(model, device), size),
    }


def _batch(clip: Clip, size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(size, clip.size, clip.size, dtype=torch.bool)
    masks[:, :, : clip.size // 2] = True
    crops = torch.randint(256, (size, 3, clip.size, clip.size), dtype=torch.uint8, generator=generator)
    return {"crop": crops, "mask": masks, "text": [], "noun_id": torch.arange(size) % NOUNS, "key": [""] * size}


def _timed(size: int, device: torch.device, step: Callable[[int], None]) -> Variant:
    """A variant that warms up once and then times a few steps."""

    def variant(_: int) -> float:
        step(0)
        _wait(device)
        start, number = time.perf_counter(), 0
        while number < 2 or (time.perf_counter() - start < 2 and device.type == "cuda"):
            step(number)
            number += 1
            _wait(device)
        return size * number / (time.perf_counter() - start)

    return variant


def _ours(clip: Clip, size: int, prompts: bool) -> Variant:
    device = clip.mean.device
    prompts_ = new_prompts(clip.model.visual, 3, 0).to(device) if prompts else None  # type: ignore[arg-type]
    tower = Tower(clip, prompts_, train_tower=not prompts, train_prompts=prompts)
    scale = nn.Parameter(torch.tensor(4.0, device=device))
    optimizer = torch.optim.AdamW(parameter_groups(tower, lr=1e-6, prompt_lr=1e-6, weight_decay=0.2), fused=True)
    text_embeddings = nn.functional.normalize(torch.randn(1, NOUNS, clip.width, device=device), dim=-1)
    batch, world = _batch(clip, size), World(0, 1, device)

    def step(number: int) -> None:
        optimizer.zero_grad()
        contrastive_step(
            tower, scale, [batch], text_embeddings, world, loss="multi_positive", precision="bf16", seed=0, step=number
        )
        optimizer.step()

    return _timed(size, device, step)


def _plain(clip: Clip, size: int, attention: Callable[[], AbstractContextManager[None]]) -> Variant:
    device, model = clip.mean.device, clip.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.2, fused=True)
    batch, clip_loss = _batch(clip, size), open_clip.ClipLoss()
    tokens = clip.tokenizer(["a photo of a thing."] * size).to(device)

    def step(_: int) -> None:
        optimizer.zero_grad()
        images = normalize(batch["crop"].to(device), clip.mean, clip.std)
        with attention(), autocast("bf16", device):
            crops, texts, scale = model(images, tokens)
            loss: Tensor = clip_loss(crops, texts, scale)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _timed(size, device, step)


def _input_gradient(clip: Clip, size: int) -> Variant:
    device, batch = clip.mean.device, _batch(clip, size)
    visual: nn.Module = clip.model.visual  # type: ignore[assignment]

    def step(_: int) -> None:
        images = normalize(batch["crop"].to(device), clip.mean, clip.std).requires_grad_()
        with autocast_context(device, "bf16"), trainable_cpu_blocks(visual, device):
            visual(images).float().square().sum().backward()

    return _timed(size, device, step)


def finetune_flops(model: str, device: torch.device) -> float:
    """Number of arithmetic operations of a finetune step for one sample, forward and backward, as torch counts them."""
    clip = _load(model, device)
    clip.model.visual.requires_grad_(True)
    images = torch.zeros(1, 3, clip.size, clip.size, device=device)
    with FlopCounterMode(display=False) as counter:
        clip.model.visual(images).sum().backward()  # type: ignore[operator]
    return float(counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
