"""The model card of a CLIP: what it was made from, under which licenses, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ovseg.core.options import Encoder
from ovseg.engine.weight_files import CARD

NOT_STATED = "not stated"
TEXT = """---
{metadata}
---

{kind} The text tower is that of the base model.

```python
import open_clip
model = open_clip.create_model("local-dir:THIS_FOLDER")
# or, with {extras}:
from pathlib import Path
from ovseg.clip.adapted import load_adapted
clip = load_adapted(Path("THIS_FOLDER"))
```

{prompts}

## Made from

{origin}
"""
UNCHANGED = """# CLIP for open-vocabulary segmentation

The weights are those of the base model, in the layout of open_clip; nothing was trained since."""
OF_CROPS = """# CLIP adapted to masked crops

Made by the recipe of [OVSeg](https://arxiv.org/abs/2210.04150): the image tower classifies image regions whose background is
blanked out."""
OF_WHOLE_IMAGES = """# CLIP that sees the regions of an image in one pass

The image tower sees the whole image once; `region_encoder.json` says how it classifies regions (`{encoder}`). Stock open_clip
does not read that file."""

PSEUDO_TEXTS = """Regions are not compared with the texts, but with what `pseudo_text.safetensors` makes of them in each image:
`ovseg.clip.pseudo_text.compare`."""


def write_card(
    folder: Path,
    provenance: Mapping[str, Any],
    has_prompts: bool,
    has_text_prompts: bool = False,
    encoder: Encoder = "crops",
    has_pseudo_texts: bool = False,
) -> None:
    """Write README.md with the metadata that the Hub reads.

    Args:
        folder: folder of the model.
        provenance: "base" with model, pretrained, weights, licence and, if known, source, revision and sha256; and "steps", a
            list of {stage, shards or tables, mask_source, mask_licence, recipe}.
        has_prompts: whether mask prompts are stored beside the weights.
        has_text_prompts: whether learned text prompts are.
        encoder: the region encoder that the CLIP is made for.
        has_pseudo_texts: whether pseudo-texts are stored beside the weights.
    """
    base, steps = provenance.get("base", {}), provenance.get("steps", [])
    licences = {base.get("licence"), *(step.get("mask_licence") for step in steps)}
    metadata = ModelCardData(
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=["open_clip", "clip", "ovseg", "open-vocabulary-segmentation"],
        license=_common_licence(licences),
    )
    prompts = "Mask prompts are stored in `mask_prompts.safetensors`; stock open_clip does not use them."
    text_prompts = (
        "Learned text prompts, which `load_adapted` embeds names with, are stored in `text_prompts.safetensors`."
    )
    learned = [prompts if has_prompts else "There are no mask prompts."]
    learned += [text_prompts] if has_text_prompts else []
    learned += [PSEUDO_TEXTS] if has_pseudo_texts else []
    text = TEXT.format(
        metadata=metadata.to_yaml(),
        kind=OF_WHOLE_IMAGES.format(encoder=encoder) if encoder != "crops" else OF_CROPS if steps else UNCHANGED,
        extras="mask prompts if there are any" if encoder == "crops" else "its region encoder",
        prompts="\n\n".join(learned),
        origin="\n".join([_describe_base(base), *map(_describe_step, steps)]),
    )
    ModelCard(text).save(folder / CARD)


def _common_licence(licences: set[str | None]) -> str:
    """The license that everything shares, as the Hub writes it, or "other"."""
    (licence, *others) = licences
    return licence.lower() if licence and not others else "other"


def _describe_base(base: Mapping[str, Any]) -> str:
    facts = [
        f"weights `{base.get('pretrained') or base.get('weights')}`",
        f"license: {base.get('licence') or NOT_STATED}",
    ]
    facts += [f"{name} `{base[name]}`" for name in ("source", "revision", "sha256") if base.get(name)]
    return f"- base: `{base.get('model', NOT_STATED)}`, {', '.join(facts)}"


def _describe_step(step: Mapping[str, Any]) -> str:
    return (
        f"- {step['stage']}: {_describe_inputs(step)}, masks from {step['mask_source']} "
        f"(license: {step['mask_licence'] or NOT_STATED}), recipe `{json.dumps(step['recipe'])}`"
    )


def _describe_inputs(step: Mapping[str, Any]) -> str:
    """What a training read: shards of crops, or tables for a method on whole images."""
    if "shards" in step:
        return f"shards `{step['shards']}`"
    recipe, teacher = step["recipe"], step.get("teacher")
    inputs = ", ".join(f"{name} `{fingerprint}`" for name, fingerprint in step["tables"].items())
    distilled = f", distilled from `{teacher}`" if teacher else ""
    return f"method {recipe['method']} on {recipe['pairs']} regions ({inputs}){distilled}"
