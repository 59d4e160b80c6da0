"""Learning text prompts on masked crops, with both towers of CLIP frozen (SimBaseline, after CoOp).

The loss is the cross-entropy of 100 x cosine over all nouns of the shards, so the shards should hold annotated classes
(`select.annotated_fraction=1`): each step embeds every noun.

Shapes: n samples of this rank, K nouns, C context vectors, W width of the text tower, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.passes import text_lengths
from ovseg.clip.save import model_config
from ovseg.clip.text_prompts import encode_short, new_text_prompts, prompted_tokens, text_prompts_applied
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, FinetuneOptions, HeldoutOptions, Precision
from ovseg.core.vocabulary import LOGIT_SCALE
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.training.adapt import count_steps, read_crop_batches, require_crops
from ovseg.training.checkpoint import DataLoaderLayout, TrainableParameters
from ovseg.training.distributed import World, all_reduce_sum, loader_workers, split_batch, wrap_for_ranks
from ovseg.training.loader import Batch, list_shards, split
from ovseg.training.loop import Step, StepResult, TrainingLoop, explain_out_of_memory, warmup_cosine
from ovseg.training.monitor import heldout_key, heldout_monitor
from ovseg.training.precision import autocast_context
from ovseg.training.run import Training, publish_training
from ovseg.training.texts import read_nouns
from ovseg.training.tower import Tower

NAME = "finetune"
MOMENTUM, CLIP_NORM = 0.9, 0.01  # SimBaseline's, of SGD and of the gradient
USED = ("method", "epochs", "max_steps", "batch_size", "lr", "weight_decay", "warmup_steps", "crop_scale", "precision")
"""The options that count; `loss`, `templates` and `logit_scale` do not."""


class PromptedNames(nn.Module):
    """The embeddings of names behind trainable context vectors.

    Args:
        clip: the CLIP; its text tower is frozen.
        prompts: context vectors `[C, W]`.
        names: K names.
    """

    tokens: Tensor

    def __init__(self, clip: Clip, prompts: Tensor, names: list[str]) -> None:
        super().__init__()
        self.model = clip.model.requires_grad_(False)
        self.prompts = nn.Parameter(prompts.clone().to(clip.mean.device))
        tokens = prompted_tokens(clip.tokenizer, names, len(prompts))
        longest = int(text_lengths(tokens).max())
        self.register_buffer("tokens", tokens[:, :longest].to(clip.mean.device), persistent=False)

    def forward(self) -> Tensor:
        """Return unit vectors, float32 `[K, D]`."""
        with text_prompts_applied(self.model, self.prompts):
            return F.normalize(encode_short(self.model, self.tokens).float(), dim=-1)


def learn_text_prompts(
    init: Path,
    shards: Path,
    out: Path,
    runtime: Runtime,
    options: FinetuneOptions,
    crop: CropOptions,
    source: Mapping[str, str | None],
    heldout: HeldoutOptions | None = None,
) -> None:
    """Learn text prompts for the CLIP of `init` on `shards`, and publish it with them to `out`; see `adapt.adapt`.

    Text prompts that `init` has are trained further. A training of 0 steps publishes `init` unchanged.

    Args:
        init, shards, out, runtime, crop, source, heldout: as `adapt.adapt` takes them.
        options: the parameters; those of `USED`, and the seed, count.

    Raises:
        OvsegError: shards, model or parameters cannot be used; the loss is not a number; memory or disk is full.
        KeyboardInterrupt: the run was stopped.
    """
    if not tables.read_step_manifest(shards):
        raise OvsegError(f"{shards} holds no finished shards (no {tables.STEP_MANIFEST}); run the stage `shards` first")
    parameters = options.model_dump(mode="json", include={*USED, "seed", "heldout_every"}) | crop.model_dump(
        mode="json"
    )
    key = step_key(
        NAME,
        __name__,
        init=tables.content_hash(init),
        shards=tables.content_hash(shards),
        parameters=parameters,
        source=dict(source),
        **heldout_key(options.heldout_every, heldout),
    )
    record = {"stage": NAME, "shards": tables.read_step_manifest(shards)["fingerprint"], **source, "recipe": parameters}

    def build(world: World, _scratch: Path) -> Training:
        clip, provenance = load_adapted(init, str(world.device)), read_provenance(init)
        prompts, loop = clip.text_prompts, None
        if steps := count_steps(shards, options.epochs, options.max_steps, options.batch_size):
            require_crops(NAME, clip, init)
            start = new_text_prompts(clip.model, options.seed) if prompts is None else prompts
            names = PromptedNames(clip, start, read_nouns(shards))
            prompts, loop = names.prompts, build_loop(clip, names, shards, steps, options, crop, runtime, world)

            def now() -> Clip:
                return replace(clip, text_prompts=names.prompts.detach())

            monitor = heldout_monitor(NAME, options.heldout_every, heldout, clip, now, crop, world)
            loop = replace(loop, monitor=monitor)
            provenance["steps"] = [*provenance.get("steps", []), record]
        config = model_config(f"local-dir:{init}")

        def save(folder: Path) -> None:
            save_adapted(
                clip.model,
                config,
                clip.prompts,
                provenance,
                folder,
                clip.tokenizer,
                text_prompts=prompts,
                regions=clip.regions,
                adapter=clip.adapter,
                pseudo_text=clip.pseudo_text,
            )

        return Training(save, loop)

    publish_training(key, build, out, runtime)


def build_loop(
    clip: Clip,
    names: PromptedNames,
    shards: Path,
    steps: int,
    options: FinetuneOptions,
    crop: CropOptions,
    runtime: Runtime,
    world: World,
) -> TrainingLoop:
    """Make the training: SGD with momentum, a cosine schedule, batches of masked crops.

    Args:
        clip: the CLIP.
        names: what is trained.
        shards: the folder of the shards.
        steps: the number of optimizer steps.
        options: the parameters of the training.
        crop: the crop recipe.
        runtime: workers and micro-batch.
        world: the process group.

    Raises:
        OvsegError: the shards cannot be used; the batch cannot be divided.
    """
    local_size, micro_size = split_batch(NAME, options.batch_size, world, runtime.micro_batch)
    workers = min(loader_workers(runtime.workers), max(1, len(list_shards(shards)) // world.size))
    tower = Tower(clip, clip.prompts, train_tower=False, train_prompts=False)
    optimizer = torch.optim.SGD([names.prompts], lr=options.lr, momentum=MOMENTUM, weight_decay=options.weight_decay)

    def make_step(steps_done: int) -> Step:
        batches = read_crop_batches(NAME, clip, shards, local_size, workers, options, crop)
        batches = islice(batches, steps_done, None)  # the samples of the steps that are done are read and skipped
        return _Step(tower, wrap_for_ranks(names, world), batches, micro_size, options, world)

    trained = {"text_prompts": names.prompts}
    return TrainingLoop(
        steps=steps,
        weights=TrainableParameters(trained),
        parameters=trained,
        optimizer=optimizer,
        schedule=warmup_cosine(optimizer, steps, options.warmup_steps),
        make_step=make_step,
        clip_norm=CLIP_NORM,
        extra={"loader": DataLoaderLayout(world.size, workers)},
    )


@dataclass(frozen=True)
class _Step:
    """Computes the gradients of one training step; a `Step`."""

    tower: nn.Module
    names: nn.Module
    batches: Iterator[Batch]
    micro_size: int
    options: FinetuneOptions
    world: World

    def __call__(self, _number: int) -> StepResult:
        batch = next(self.batches)
        with explain_out_of_memory(NAME, self.micro_size):
            loss, accuracy = prompts_step(
                self.tower, self.names, split(batch, self.micro_size), self.world, self.options.precision
            )
        return StepResult(torch.tensor(loss), self.options.batch_size, batch["key"], {"accuracy": accuracy})


def prompts_step(
    tower: nn.Module, names: nn.Module, micro_batches: Sequence[Batch], world: World, precision: Precision
) -> tuple[float, float]:
    """Add the gradient of one step to the context vectors. A crop without foreground does not count.

    Args:
        tower: the frozen image tower, a `Tower`.
        names: a `PromptedNames`, wrapped by `wrap_for_ranks`.
        micro_batches: the n samples of this rank.
        world: the process group.
        precision: the arithmetic of both towers.

    Returns:
        the loss over the global batch, and the fraction of its crops whose noun is the most similar one.
    """
    with torch.no_grad(), autocast_context(world.device, precision):
        parts = [tower(batch["crop"].to(world.device), batch["mask"].to(world.device)) for batch in micro_batches]
    labels = torch.cat([batch["noun_id"] for batch in micro_batches]).to(world.device)
    counts = torch.cat([batch["mask"].flatten(1).any(1) for batch in micro_batches]).to(world.device)
    number = max(1.0, all_reduce_sum(float(counts.sum()), world))
    with autocast_context(world.device, precision):
        texts = names()
    logits = LOGIT_SCALE * torch.cat(parts)[counts] @ texts.T
    labels = labels[counts]
    loss = F.cross_entropy(logits, labels, reduction="sum") / number
    # times the number of ranks, because DistributedDataParallel takes the mean of their gradients
    with autocast_context(world.device, precision):
        torch.autograd.backward(loss * world.size)
    correct = float((logits.argmax(1) == labels).sum())
    return all_reduce_sum(float(loss.detach()), world), all_reduce_sum(correct, world) / number
