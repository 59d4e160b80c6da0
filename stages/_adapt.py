"""What the stages `finetune` and `prompt` share: where they read and write, and which masks the model card names."""

from __future__ import annotations

from pathlib import Path

from ovseg.core import tables
from ovseg.core.options import FinetuneOptions, PromptOptions
from ovseg.core.params import Params
from ovseg.training.adapt import adapt
from ovseg.training.text_prompt_training import learn_text_prompts
from stages._run import training_runtime

MODELS = Path("models")


def run_adaptation(options: FinetuneOptions | PromptOptions, params: Params, out: Path) -> None:
    """Train the CLIP of `options.init` on the mined shards and write it to `out`.

    Args:
        options: the section of the stage.
        params: all sections.
        out: the folder of the result.
    """
    init, runtime, source = MODELS / options.init, training_runtime(), mask_source(options.shards, params)
    if isinstance(options, FinetuneOptions) and options.method == "text_prompts":
        learn_text_prompts(init, options.shards, out, runtime, options, params.crop, source, params.heldout)
    else:
        adapt(init, options.shards, out, runtime, options, params.crop, source, params.heldout)


def mask_source(shards: Path, params: Params) -> dict[str, str | None]:
    """Return "mask_source" and "mask_licence" of the mined pairs in a folder of shards, for the model card."""
    sources = sorted(tables.read(shards, "samples", ["source"])["source"].unique().to_pylist())
    licence = tables.licence(shards, "samples") or params.propose.licence  # what the generator states comes first
    return {"mask_source": ", ".join(sources), "mask_licence": licence}
