"""Adapting CLIP to masked crops: finetuning its image tower (paper 3.2), tuning mask prompts (3.3), or both at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import foreground_patches, vit_layout
from ovseg.clip.save import model_config
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import REGION_FIELDS, CropOptions, FinetuneOptions, HeldoutOptions, PromptOptions
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.training.checkpoint import DataLoaderLayout, TrainableParameters
from ovseg.training.contrastive import contrastive_step
from ovseg.training.distributed import World, loader_workers, split_batch, wrap_for_ranks
from ovseg.training.loader import Batch, endless_batches, list_shards, read_sizes, split
from ovseg.training.loop import Step, StepResult, TrainingLoop, explain_out_of_memory, warmup_cosine
from ovseg.training.monitor import heldout_key, heldout_monitor
from ovseg.training.run import Training, publish_training
from ovseg.training.texts import embed_nouns, read_nouns
from ovseg.training.tower import MAX_LOG_SCALE, Tower, build_optimizer, build_tower, learning_rates

CHECKED_BATCHES = 4  # number of first batches in which `require_background_patches` looks for such patches


def adapt(
    init: Path,
    shards: Path,
    out: Path,
    runtime: Runtime,
    options: FinetuneOptions | PromptOptions,
    crop: CropOptions,
    source: Mapping[str, str | None],
    heldout: HeldoutOptions | None = None,
) -> None:
    """Train from `init` on `shards`, and publish the adapted CLIP with a model card and `training.tsv` to `out`.

    A training of 0 steps publishes `init` unchanged.

    Run under torchrun, every rank calls this. A killed run continues from its last checkpoint.

    Args:
        init: the folder of the CLIP to start from. Its mask prompts are kept; finetuning leaves them unchanged.
        shards: the folder of the mined shards.
        out: the folder of the result.
        runtime: devices, workers, micro-batch, scratch folder.
        options: the parameters of finetuning or of mask prompt tuning; `options.init` was resolved
            into `init` by the caller.
        crop: the crop recipe.
        source: "mask_source" and "mask_licence", for the model card.
        heldout: the masks that `options.heldout_every` measures on; None measures nothing.

    Raises:
        OvsegError: shards, model or parameters cannot be used; the loss is not a number; memory or disk is full.
        KeyboardInterrupt: the run was stopped.
    """
    name = "finetune" if isinstance(options, FinetuneOptions) else "prompt"
    if not tables.read_step_manifest(shards):
        raise OvsegError(f"{shards} holds no finished shards (no {tables.STEP_MANIFEST}); run the stage `shards` first")
    parameters = options.model_dump(mode="json", exclude={"init", "shards", *REGION_FIELDS})
    parameters |= crop.model_dump(mode="json")
    shards_hash = tables.content_hash(shards)
    key = step_key(
        name,
        __name__,
        init=tables.content_hash(init),
        shards=shards_hash,
        parameters=parameters,
        source=dict(source),
        **heldout_key(options.heldout_every, heldout),
    )
    record = {"stage": name, "shards": tables.read_step_manifest(shards)["fingerprint"], **source, "recipe": parameters}

    def build(world: World, _scratch: Path) -> Training:
        clip, provenance = load_adapted(init, str(world.device)), read_provenance(init)
        loop = None
        prompts: Tensor | None = clip.prompts
        if steps := count_steps(shards, options.epochs, options.max_steps, options.batch_size):
            require_crops(name, clip, init)
            torch.manual_seed(options.seed)
            tower = build_tower(name, clip, options)
            prompts, loop = tower.prompts, build_loop(name, clip, tower, shards, steps, options, crop, runtime, world)

            def now() -> Clip:
                return replace(clip, prompts=None if tower.prompts is None else tower.prompts.detach())

            monitor = heldout_monitor(name, options.heldout_every, heldout, clip, now, crop, world)
            loop = replace(loop, monitor=monitor)
            provenance["steps"] = [*provenance.get("steps", []), record]
        config = model_config(f"local-dir:{init}")

        def save(folder: Path) -> None:
            save_adapted(
                clip.model,
                config,
                prompts,
                provenance,
                folder,
                clip.tokenizer,
                text_prompts=clip.text_prompts,
                regions=clip.regions,
                adapter=clip.adapter,
                pseudo_text=clip.pseudo_text,
            )

        return Training(save, loop)

    publish_training(key, build, out, runtime)


def require_crops(name: str, clip: Clip, init: Path) -> None:
    """Check that a CLIP that is to be trained on crops is made for crops.

    Raises:
        OvsegError: it is made for a region encoder that sees whole images.
    """
    if clip.regions.encoder != "crops":
        raise OvsegError(
            f"{name} trains on crops, but {init} is made for the region encoder {clip.regions.encoder}; set {name}.epochs=0 to "
            f"copy it, or {name}.init to a CLIP for crops"
        )


def count_steps(shards: Path, epochs: int, max_steps: int | None, batch_size: int) -> int:
    """Count the optimizer steps of a whole training.

    Args:
        shards: the folder of the mined shards.
        epochs: the number of passes over all samples.
        max_steps: the largest number of steps; None for no limit.
        batch_size: the number of pairs in a step, over all processes.

    Raises:
        OvsegError: there are fewer samples than one batch has.
    """
    if not epochs or max_steps == 0:
        return 0
    samples = sum(read_sizes(shards).values())
    if samples < batch_size:
        raise OvsegError(f"batch_size={batch_size} is more than the {samples} samples of {shards}; set it to less")
    steps = epochs * (samples // batch_size)
    return steps if max_steps is None else min(steps, max_steps)


def build_loop(
    name: str,
    clip: Clip,
    tower: Tower,
    shards: Path,
    steps: int,
    options: FinetuneOptions | PromptOptions,
    crop: CropOptions,
    runtime: Runtime,
    world: World,
) -> TrainingLoop:
    """Make the training of a tower: optimizer, schedule, batches, and what a step computes.

    Args:
        name: the name of the training, for messages.
        clip: the CLIP; its logit scale is trained too if `options.logit_scale` says so.
        tower: its image tower with mask prompts.
        shards: the folder of the mined shards.
        steps: the number of optimizer steps.
        options: the parameters of the training.
        crop: the crop recipe.
        runtime: workers and micro-batch.
        world: the process group.

    Raises:
        OvsegError: the shards cannot be used; the batch cannot be divided.
    """
    text_embeddings = embed_nouns(read_nouns(shards), clip, options.templates).to(world.device)
    log_scale = cast(nn.Parameter, clip.model.logit_scale)
    log_scale.requires_grad_(options.logit_scale == "train")
    max_log_scale = max(MAX_LOG_SCALE, float(log_scale.detach()))  # SigLIP's begins beyond CLIP's bound
    tower_lr, prompt_lr = learning_rates(options)
    optimizer = build_optimizer(tower, log_scale, tower_lr, prompt_lr, options.weight_decay)
    local_size, micro_size = split_batch(name, options.batch_size, world, runtime.micro_batch)
    workers = min(loader_workers(runtime.workers), max(1, len(list_shards(shards)) // world.size))

    def make_step(steps_done: int) -> Step:
        batches = read_crop_batches(name, clip, shards, local_size, workers, options, crop)
        batches = islice(batches, steps_done, None)  # the samples of the steps that are done are read and skipped
        return _Step(
            name, wrap_for_ranks(tower, world), log_scale, text_embeddings, batches, micro_size, options, shards, world
        )

    def clamp() -> None:
        if options.logit_scale == "train":
            with torch.no_grad():
                log_scale.clamp_(0, max_log_scale)

    trained = {key: p for key, p in tower.named_parameters() if p.requires_grad} | {"logit_scale": log_scale}
    return TrainingLoop(
        steps=steps,
        weights=TrainableParameters(trained),
        parameters=trained,
        optimizer=optimizer,
        schedule=warmup_cosine(optimizer, steps, options.warmup_steps),
        make_step=make_step,
        after_step=clamp,
        extra={"loader": DataLoaderLayout(world.size, workers)},
    )


def read_crop_batches(
    name: str,
    clip: Clip,
    shards: Path,
    local_size: int,
    workers: int,
    options: FinetuneOptions | PromptOptions,
    crop: CropOptions,
) -> Iterator[Batch]:
    """Iterate over one rank's batches of a training's crops, without end, from the first one on.

    Args:
        name: the name of the training, for messages.
        clip: the CLIP whose input size and mean the crops have.
        shards: the folder of the shards.
        local_size: the number of samples of a batch.
        workers: the number of loader processes.
        options: the parameters of the training; that of mask prompts needs background patches.
        crop: the crop recipe.
    """
    batches = endless_batches(
        shards,
        clip.size,
        local_size,
        mean=cast("tuple[float, float, float]", tuple(clip.mean.tolist())),
        fill=crop.fill,
        antialias=crop.antialias,
        workers=workers,
        crop_scale=options.crop_scale,
        seed=options.seed,
    )
    return require_background_patches(name, batches, clip, shards) if isinstance(options, PromptOptions) else batches


@dataclass(frozen=True)
class _Step:
    """Computes the gradients of one training step; a `Step`."""

    name: str
    tower: nn.Module
    log_scale: nn.Parameter
    text_embeddings: Tensor
    batches: Iterator[Batch]
    micro_size: int
    options: FinetuneOptions | PromptOptions
    shards: Path
    world: World

    def __call__(self, number: int) -> StepResult:
        batch, options = next(self.batches), self.options
        if int(batch["noun_id"].max()) >= self.text_embeddings.shape[1]:
            raise OvsegError(
                f"{self.shards}: a sample has a noun_id that nouns.json does not list; run the stage `shards` again"
            )
        with explain_out_of_memory(self.name, self.micro_size):
            loss = contrastive_step(
                self.tower,
                self.log_scale,
                split(batch, self.micro_size),
                self.text_embeddings,
                self.world,
                loss=options.loss,
                precision=options.precision,
                seed=options.seed,
                step=number,
            )
        shown = {"logit_scale": float(self.log_scale.detach().exp())}
        return StepResult(loss, options.batch_size, batch["key"], shown)


def require_background_patches(name: str, batches: Iterator[Batch], clip: Clip, shards: Path) -> Iterator[Batch]:
    """Fail early if none of the first 4 batches has a fully-background patch.

    Mask prompts get gradients only from such patches.

    Args:
        name: the name of the training, for messages.
        batches: the batches.
        clip: the CLIP whose patches count.
        shards: the folder that the batches come from, for messages.

    Returns:
        all batches, the first ones included.

    Raises:
        OvsegError: every patch of the first batches has foreground.
    """
    first = list(islice(batches, CHECKED_BATCHES))
    patch = vit_layout(clip.model.visual).patch  # type: ignore[arg-type]
    if not any(bool((~foreground_patches(batch["mask"], patch)).any()) for batch in first):
        raise OvsegError(
            f"{name}: no patch of the first {sum(len(batch['key']) for batch in first)} samples of {shards} is background "
            "alone, so mask prompts would never be used nor trained; check that the masks are not whole boxes"
        )
    return chain(first, batches)
