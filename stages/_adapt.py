"""What the stages `finetune` and `prompt` share: where they read and write, and which masks the model card names."""

from __future__ import annotations

from pathlib import Path

from ovseg.core import tables
from ovseg.core.options import FinetuneOptions, PromptOptions, RegionPairs
from ovseg.core.params import Params
from ovseg.training.adapt import adapt
from ovseg.training.region_training import RunFolders
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
    init, runtime, source = MODELS / options.init, training_runtime(), shards_source(options.shards, params)
    if isinstance(options, FinetuneOptions) and options.method == "text_prompts":
        learn_text_prompts(init, options.shards, out, runtime, options, params.crop, source, params.heldout)
    else:
        adapt(init, options.shards, out, runtime, options, params.crop, source, params.heldout)


def shards_source(shards: Path, params: Params) -> dict[str, str | None]:
    """Return "mask_source" and "mask_licence" of the mined pairs in a folder of shards, for the model card."""
    return _describe(_sources(shards, "samples"), tables.licence(shards, "samples"), params)


def regions_source(run: RunFolders, pairs: RegionPairs, params: Params) -> dict[str, str | None]:
    """Return "mask_source" and "mask_licence" of the mined pairs of a run, or else of its proposals, for the model card."""
    mined = pairs == "mined"
    made = _sources(run.pairs, "pairs") if mined else _sources(run.proposals, "proposals") - {tables.ANNOTATED}
    return _describe(made, tables.licence(run.proposals, "proposals"), params)


def _sources(folder: Path, name: str) -> set[str]:
    return set(tables.read(folder, name, ["source"])["source"].unique().to_pylist())


def _describe(sources: set[str], licence: str | None, params: Params) -> dict[str, str | None]:
    """What the generator of the masks states of its license comes first."""
    return {"mask_source": ", ".join(sorted(sources)), "mask_licence": licence or params.propose.licence}
