"""Adapting CLIP to masked crops: finetuning its image tower (paper 3.2), tuning mask prompts (3.3), or both at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import foreground_patches, new_prompts, vit_hook_points
from ovseg.clip.save import model_config
from ovseg.core import crops, tables
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import TrainTemplates
from ovseg.engine.fingerprint import StepKey, step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.units import Counts, Scratch, commit, published, scratch_folder
from ovseg.training.checkpoint import Checkpoint, DataLoaderLayout, Stateful, TrainableParameters
from ovseg.training.contrastive import contrastive_step
from ovseg.training.distributed import World, barrier, distributed_context
from ovseg.training.loader import Batch, list_shards, load_shards, read_sizes, split
from ovseg.training.loop import History, StepResult, explain_out_of_memory, train, warmup_cosine, write_curves
from ovseg.training.losses import Loss
from ovseg.training.texts import read_nouns, text_bank
from ovseg.training.tower import BETAS, EPS, Tower, groups

log = logging.getLogger("ovseg")

MAX_LOG_SCALE = math.log(100)  # CLIP's own bound
PROBED = 4  # batches that are looked at before prompts are trained


@dataclass(frozen=True)
class Recipe:
    """How a training goes; the parameters of the stages `finetune` and `prompt`.

    Attributes:
        epochs: over all samples; 0 trains nothing.
        max_steps: at most that many steps, the schedule included.
        batch_size: pairs of the global batch, over all processes.
        lr: of the image tower; None leaves it frozen.
        prompt_lr: of mask prompts; None leaves them as they are.
        depth: of new mask prompts: how many layers they go into.
        weight_decay: of the image tower's matrices.
        warmup_steps: of the learning rates.
        loss: "multi_positive" or "info_nce".
        templates: of the nouns' texts.
        logit_scale: "train" (clamped to [1, 100], or to what it begins with if that is more) or "fixed".
        crop_scale: share of a crop that is seen, see `crops.random_crop`; 1 is all of it.
        precision: "bf16" (autocast) or "fp32".
        seed: of order, crops, templates and new prompts.
        fill, antialias: of the crop recipe.
    """

    epochs: int
    max_steps: int | None
    batch_size: int
    lr: float | None
    prompt_lr: float | None
    depth: int
    weight_decay: float
    warmup_steps: int
    loss: Loss
    templates: TrainTemplates
    logit_scale: Literal["train", "fixed"]
    crop_scale: float
    precision: Literal["fp32", "bf16"]
    seed: int
    fill: crops.Fill
    antialias: bool


def adapt(
    name: str, init: Path, shards: Path, out: Path, runtime: Runtime, recipe: Recipe, source: Mapping[str, str | None]
) -> None:
    """Train from `init` on `shards` and write the adapted CLIP, a model card and `training.tsv` (the curves) to `out`.

    Run under torchrun, every rank calls this. A killed run continues from its last checkpoint.

    Args:
        name: "finetune" or "prompt"; shown, and part of the scratch folder's name.
        init: folder of the CLIP to start from. Its mask prompts are kept, and stay as they are unless trained.
        shards: folder of the mined shards.
        out: folder of the result.
        runtime: device, workers, micro-batch, scratch folder.
        recipe: parameters.
        source: "mask_source" and "mask_licence", for the model card.

    Raises:
        OvsegError: shards, model or recipe that cannot be used; no number for a loss; no memory; no space.
    """
    key = _key(name, init, shards, recipe, source)
    with distributed_context(runtime.devices) as world:
        if published(out, key, runtime) is not None:
            log.info("%s: done before -> %s", name, out)
            return
        scratch = Scratch(runtime.work, key, runtime.fresh, keyed_by_code=False) if world.rank == 0 else None
        barrier(world)
        try:
            clip = load_adapted(init, str(world.device))
            provenance = read_provenance(init)
            history = History()
            prompts = clip.prompts
            if _steps(recipe, shards) > 0:
                folder = scratch_folder(runtime.work, key, keyed_by_code=False)
                prompts = _train(name, clip, shards, folder, key.fingerprint, runtime, recipe, world, history)
                provenance = _add_step(provenance, name, shards, recipe, source)
            if scratch:
                _publish(scratch, out, clip, prompts, f"local-dir:{init}", provenance, history)
                log.info("%s -> %s", name, out)
            barrier(world)
        finally:
            if scratch:
                scratch.close()


def _key(name: str, init: Path, shards: Path, recipe: Recipe, source: Mapping[str, str | None]) -> StepKey:
    account = tables.read_step_manifest(shards)
    if not account:
        raise OvsegError(f"{shards} holds no finished shards (no {tables.STEP_MANIFEST}); run the stage `shards` first")
    return step_key(
        name,
        __name__,
        init=tables.content_hash(init),
        shards=account["fingerprint"],
        recipe=vars(recipe),
        source=dict(source),
    )


def _steps(recipe: Recipe, shards: Path) -> int:
    """Steps of the whole training."""
    if not recipe.epochs or recipe.max_steps == 0:
        return 0
    samples = sum(read_sizes(shards).values())
    if samples < recipe.batch_size:
        raise OvsegError(f"batch_size={recipe.batch_size} is more than the {samples} samples of {shards}")
    steps = recipe.epochs * (samples // recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def _train(
    name: str,
    clip: Clip,
    shards: Path,
    folder: Path,
    key: str,
    runtime: Runtime,
    recipe: Recipe,
    world: World,
    history: History,
) -> Tensor | None:
    """Train the CLIP in place; returns its mask prompts."""
    steps = _steps(recipe, shards)
    torch.manual_seed(recipe.seed)
    if recipe.prompt_lr is not None:
        _check_patches(name, clip)
    prompts = clip.prompts
    if recipe.prompt_lr is not None and prompts is not None and len(prompts) != recipe.depth:
        raise OvsegError(
            f"{name}.depth={recipe.depth}, but the CLIP to start from has mask prompts of depth {len(prompts)}"
        )
    if recipe.prompt_lr is not None and prompts is None:
        prompts = new_prompts(clip.model.visual, recipe.depth, recipe.seed).to(world.device)  # type: ignore[arg-type]
    bank = text_bank(read_nouns(shards), clip, recipe.templates).to(world.device)
    tower = Tower(clip, prompts, train_tower=recipe.lr is not None, train_prompts=recipe.prompt_lr is not None)
    scale = cast(nn.Parameter, clip.model.logit_scale).requires_grad_(recipe.logit_scale == "train")
    most = max(MAX_LOG_SCALE, float(scale.detach()))  # SigLIP's was trained beyond CLIP's bound
    rates = {"lr": recipe.lr or 0.0, "prompt_lr": recipe.prompt_lr or 0.0}
    parameters = groups(tower, **rates, weight_decay=recipe.weight_decay)
    if recipe.logit_scale == "train":
        parameters.append({"params": [scale], "lr": recipe.lr or recipe.prompt_lr, "weight_decay": 0.0})
    optimiser = torch.optim.AdamW(parameters, betas=BETAS, eps=EPS, fused=True)
    schedule = warmup_cosine(optimiser, steps, recipe.warmup_steps)
    trained = {n: p for n, p in tower.named_parameters() if p.requires_grad} | {"logit_scale": scale}
    parts: dict[str, Stateful] = {
        "weights": TrainableParameters(trained),
        "optimiser": optimiser,
        "schedule": schedule,
        "history": history,
    }
    local, micro = _split(name, recipe.batch_size, world, runtime.micro_batch)
    readers = min(runtime.workers, max(1, len(list_shards(shards)) // world.size))
    checkpoint = Checkpoint(
        folder, key, {**parts, "readers": DataLoaderLayout(world.size, readers)}, runtime.checkpoint_seconds
    )
    begin = checkpoint.restore(world.device)
    if begin:
        log.info("%s: continues after step %d; the samples that were seen are read past", name, begin)
    batches = _batches(clip, shards, local, readers, recipe)
    if recipe.prompt_lr is not None:
        batches = _with_blank_patches(name, batches, clip, shards)
    batches = islice(batches, begin, None)
    whole = DistributedDataParallel(tower) if world.size > 1 else tower
    options: dict[str, Any] = {"loss": recipe.loss, "precision": recipe.precision, "seed": recipe.seed}

    def step(number: int) -> StepResult:
        batch = next(batches)
        if int(batch["noun_id"].max()) >= bank.shape[1]:
            raise OvsegError(
                f"{shards}: a sample has a noun_id that nouns.json does not list; run the stage `shards` again"
            )
        with explain_out_of_memory(name, micro):
            loss = contrastive_step(whole, scale, split(batch, micro), bank, world, step=number, **options)
        return StepResult(loss, recipe.batch_size, batch["key"], {"logit_scale": float(scale.detach().exp())})

    def clamp() -> None:
        with torch.no_grad():
            scale.clamp_(0, most)

    train(
        name,
        step,
        optimiser,
        schedule,
        checkpoint,
        world,
        begin=begin,
        steps=steps,
        history=history,
        stop_after=runtime.stop_after,
        after=clamp if recipe.logit_scale == "train" else lambda: None,
    )
    return None if tower.prompts is None else tower.prompts.detach()


def _check_patches(name: str, clip: Clip) -> None:
    """Whether mask prompts have a place in the image tower; all else works with any."""
    try:
        vit_hook_points(clip.model.visual)  # type: ignore[arg-type]
    except OvsegError as error:
        raise OvsegError(f"{name}: {error}. The stages base, score, finetune, tune and evaluate work with it") from None


def _split(name: str, batch_size: int, world: World, micro: int | None) -> tuple[int, int]:
    """Pairs of this rank's share of the batch, and of a micro-batch."""
    local, left = divmod(batch_size, world.size)
    if left:
        raise OvsegError(f"{name}.batch_size={batch_size} cannot be divided among {world.size} processes")
    micro = min(micro or local, local)
    if local % micro:
        raise OvsegError(f"OVSEG_MICRO_BATCH={micro} does not divide the {local} pairs of each process")
    return local, micro


def _batches(clip: Clip, shards: Path, local: int, workers: int, recipe: Recipe) -> Iterator[Batch]:
    mean = cast("tuple[float, float, float]", tuple(clip.mean.tolist()))
    loader = load_shards(
        shards,
        clip.size,
        local,
        mean=mean,
        fill=recipe.fill,
        antialias=recipe.antialias,
        workers=workers,
        crop_scale=recipe.crop_scale,
        repeat=True,
        seed=recipe.seed,
    )
    try:
        yield from loader
    except OvsegError as error:  # of a loading process: torch puts its traceback before the message
        raise OvsegError(str(error).strip().splitlines()[-1].removeprefix("ovseg.core.errors.OvsegError: ")) from None


def _with_blank_patches(name: str, batches: Iterator[Batch], clip: Clip, shards: Path) -> Iterator[Batch]:
    """The same batches, once the first are seen to have patches of background alone: no others train mask prompts."""
    first = list(islice(batches, PROBED))
    patch = vit_hook_points(clip.model.visual).patch  # type: ignore[arg-type]
    blank = sum(int((~foreground_patches(batch["mask"], patch)).sum()) for batch in first)
    if not blank:
        raise OvsegError(
            f"{name}: no patch of the first {sum(len(b['key']) for b in first)} samples of {shards} is background alone, so "
            "mask prompts would never be used nor trained. Are the masks whole boxes?"
        )
    return chain(first, batches)


def _add_step(
    provenance: dict[str, Any], name: str, shards: Path, recipe: Recipe, source: Mapping[str, str | None]
) -> dict[str, Any]:
    step = {"stage": name, "shards": tables.read_step_manifest(shards)["fingerprint"], **source, "recipe": vars(recipe)}
    return {**provenance, "steps": [*provenance.get("steps", []), step]}


def _publish(
    scratch: Scratch,
    out: Path,
    clip: Clip,
    prompts: Tensor | None,
    origin: str,
    provenance: dict[str, Any],
    history: History,
) -> None:
    def write(_: str, folder: Path) -> Counts:
        save_adapted(clip.model, model_config(origin), prompts, provenance, folder, clip.tokenizer)
        write_curves(history, folder)
        return {"steps": int(history.rows[-1]["step"]) if history.rows else 0}

    counts = commit(scratch.folder, "model", write)
    scratch.publish(["model"], out, counts)
