"""The rows of the leaderboard: what each method trains, on which pairs, and how it segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Changes = Mapping[str, Any]
ONE_PASS: Changes = {"batch_size": 32, "warmup_steps": 10, "max_steps": 125, "start_block": 3, "image_size": 128}
"""What all trainings of one-pass encoders share: 125 batches of 32 images, which is every image of the demo once."""
BIASED: Changes = {"region_encoder": "biased_tokens", "scale_lr": 3e-3}
ADAPTER: Changes = {"region_encoder": "mask_adapter", "adapter_width": 32, "scale_lr": 3e-3}
"""Blocks of 32 channels for the demo's CLIP, and a rate for weights that are new, in few steps: the paper's is 1e-4."""


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        finetune, prompt: what it changes of these sections; None if the step is left out.
        pairs: the pairs of the shards, "mined" or "annotated"; one-pass encoders have `finetune.pairs` instead.
        segment, crop: what it changes of these sections.
        weight, mask_threshold: the method's own; None for those that `calibrate` chooses on held-out images.
        teacher: whether it is distilled from the finetuned CLIP of the run.
        of_run: the model of the run that this row is, with the run's seed; None if the run has none.
    """

    finetune: Changes | None = None
    prompt: Changes | None = None
    pairs: str = "mined"
    segment: Changes = field(default_factory=dict)
    crop: Changes = field(default_factory=dict)
    weight: float | None = None
    mask_threshold: float | None = None
    teacher: bool = False
    of_run: str | None = None

    @property
    def trains(self) -> bool:
        """Whether a seed makes a difference."""
        return bool(self.prompt is not None or (self.finetune is not None and self.finetune.get("epochs") != 0))


def one_pass(method: str, *changes: Changes, teacher: bool = False, **more: Any) -> Method:
    """Return the row of an encoder that sees the image once."""
    merged = {"method": method, **ONE_PASS, **{key: value for change in changes for key, value in change.items()}}
    return Method({**merged, **more}, teacher=teacher)


SIMBASELINE = Method(
    finetune={
        "method": "text_prompts",
        "max_steps": 400,
        "lr": 0.02,
        "weight_decay": 5e-4,
        "crop_scale": 0.08,
        "batch_size": 32,
    },
    pairs="annotated",
    segment={"weight_seen": 0.2, "invalid": "boost"},
    crop={"antialias": False},
    weight=0.8,
    mask_threshold=0.5,
)
ZEGFORMER = Method(
    segment={
        "weight_seen": 0.3333333,
        "average_seen": True,
        "seen_penalty": 0.1,
        "no_object_in_clip": True,
        "synonyms": "mean",
    },
    weight=0.6666667,
    mask_threshold=0.5,
)
METHODS: Mapping[str, Method] = {
    "CLIP on crops, untrained": Method(of_run="base"),
    "SimBaseline": SIMBASELINE,
    "ZegFormer": ZEGFORMER,
    "OVSeg, MPT": Method(prompt={}),
    "OVSeg, FT": Method(finetune={}, of_run="finetune"),
    "OVSeg, FT then MPT": Method(finetune={}, prompt={}, of_run="prompt"),
    "one pass, untrained": one_pass("regions", epochs=0),
    "MAFT, annotated": one_pass("maft", pairs="annotated"),
    "MAFT, proposals": one_pass("maft", pairs="proposals"),
    "MAFT, mined": one_pass("maft"),
    "MaskCLIP++, annotated": one_pass("maskclippp", BIASED, pairs="annotated"),
    "MaskCLIP++, mined": one_pass("maskclippp", BIASED),
    "contrastive, annotated": one_pass("regions", pairs="annotated"),
    "contrastive, mined": one_pass("regions"),
    "contrastive, mined, soft": one_pass("regions", coverage="soft"),
    "distilled": one_pass("distil", teacher=True),
    "distilled, vectors": one_pass("distil", teacher=True, distil_loss="cosine"),
    "contrastive + distilled": one_pass("regions", teacher=True, distil_weight=1.0),
}
