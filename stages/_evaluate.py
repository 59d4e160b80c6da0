"""What the stages `calibrate` and `evaluate` share: where models are, and how section segment is handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.core.params import Params

MODELS, NETWORK = Path("models"), Path("models/proposal_network")


def options(params: Params) -> dict[str, Any]:
    """How images are segmented, as `evaluation.benchmark.evaluate` takes it."""
    return {
        "view": params.segment.view,
        "templates": params.segment.templates,
        "synonyms": params.segment.synonyms,
        "weight_seen": params.segment.weight_seen,
        "average_seen": params.segment.average_seen,
        "calibration": params.segment.seen_penalty,
        "precision": params.segment.precision,
        "fill": params.crop.fill,
        "antialias": params.crop.antialias,
    }
