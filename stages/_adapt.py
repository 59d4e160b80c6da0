"""What the stages `finetune` and `prompt` share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ovseg.core import tables
from ovseg.core.options import FinetuneOptions, PromptOptions
from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.training.adapt import Recipe, adapt
from stages._run import max_steps


def run_adaptation(
    name: str,
    section: FinetuneOptions | PromptOptions,
    params: Params,
    *,
    lr: float | None,
    prompt_lr: float | None,
    depth: int = 0,
) -> None:
    """Write models/NAME; `--max-steps N` on the command line stops this run after N steps.

    Args:
        name: of the stage.
        section: its parameters.
        params: the rest of them.
        lr: of the image tower; None leaves it frozen.
        prompt_lr: of mask prompts; None leaves them as they are.
        depth: of new mask prompts.
    """
    runtime = replace(from_environment(), stop_after=max_steps())
    init, out = Path("models") / section.init, Path("models") / name
    recipe = recipe_of(section, params, lr=lr, prompt_lr=prompt_lr, depth=depth)
    shards = Path("shards")
    sources = sorted(tables.read(shards, "samples", ["source"])["source"].unique().to_pylist())
    licence = tables.licence(shards, "samples") or params.propose.licence  # what the generator states comes first
    source = {"mask_source": ", ".join(sources), "mask_licence": licence}
    adapt(name, init, shards, out, runtime, recipe, source)


def recipe_of(
    section: FinetuneOptions | PromptOptions,
    params: Params,
    *,
    lr: float | None,
    prompt_lr: float | None,
    depth: int = 0,
) -> Recipe:
    """A section of params.yaml as a recipe; see `run_adaptation`."""
    return Recipe(
        epochs=section.epochs,
        max_steps=section.max_steps,
        batch_size=section.batch_size,
        lr=lr,
        prompt_lr=prompt_lr,
        depth=depth,
        weight_decay=section.weight_decay,
        warmup_steps=section.warmup_steps,
        loss=section.loss,
        templates=section.templates,
        logit_scale=section.logit_scale,
        crop_scale=section.crop_scale,
        precision=section.precision,
        seed=section.seed,
        fill=params.crop.fill,
        antialias=params.crop.antialias,
    )
