"""The model card: what weights were made from, under which licences, and how to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"


def write_card(folder: Path, provenance: Mapping[str, Any], prompted: bool) -> None:
    """Write README.md with the front matter that the Hub reads.

    Args:
        folder: of the model.
        provenance: "base" {model, pretrained, weights, licence, and where known source, revision, sha256}, and "steps",
            each {stage, shards, mask_source, mask_licence, recipe}.
        prompted: whether mask prompts lie beside the weights.
    """
    base = provenance.get("base", {})
    steps = provenance.get("steps", [])
    licences = [base.get("licence"), *(step.get("mask_licence") for step in steps)]
    named = dict.fromkeys(licence or "not stated" for licence in licences)
    front = {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["open_clip", "clip", "ovseg", "open-vocabulary-segmentation"],
        "license": next(iter(named)).lower() if len(named) == 1 and "not stated" not in named else "other",
    }
    text = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        "# CLIP adapted to masked crops",
        "",
        "Made by [OVSeg](https://arxiv.org/abs/2210.04150)'s recipe: the image tower names regions whose background is "
        "blank. The text tower is that of the base.",
        "",
        "```python",
        "import open_clip",
        'model = open_clip.create_model("local-dir:THIS_FOLDER")',
        "# or, with mask prompts where there are some:",
        "from pathlib import Path",
        "from ovseg.clip.adapted import load_adapted",
        'clip = load_adapted(Path("THIS_FOLDER"))',
        "```",
        "",
        "Mask prompts lie in `mask_prompts.safetensors`; stock open_clip does not use them."
        if prompted
        else "There are no mask prompts.",
        "",
        "## Made from",
        "",
        f"- base: `{base.get('model', 'not stated')}`, weights `{base.get('pretrained') or base.get('weights')}`, "
        f"licence: {base.get('licence') or 'not stated'}{_exactly(base)}",
        *(_step(step) for step in steps),
        "",
    ]
    (folder / CARD).write_text("\n".join(text), encoding="utf-8")


def _exactly(base: Mapping[str, Any]) -> str:
    said = [f"{name} `{base[name]}`" for name in ("source", "revision", "sha256") if base.get(name)]
    return "".join(f", {one}" for one in said)


def _step(step: Mapping[str, Any]) -> str:
    return (
        f"- {step['stage']}: shards `{step['shards']}`, masks from {step['mask_source']} "
        f"(licence: {step['mask_licence'] or 'not stated'}), recipe `{json.dumps(step['recipe'])}`"
    )
