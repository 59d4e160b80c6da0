"""What the proposal network finds: metrics.json, and rows for `dvc plots`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ovseg.core.files import write_tsv
from ovseg.evaluation.proposal_recall import measure_recall
from ovseg.proposals.proposal_network import proposal_network_source
from ovseg.training.loop import CURVES

GROUPS = {"": "all", "_annotated": "annotated", "_not_annotated": "not annotated"}
MEASURES = {"ar": "mean of IoU 0.5 to 0.95", "recall_50": "IoU 0.5", "recall_75": "IoU 0.75"}


def write_recall(
    model: Path,
    images: Path,
    truth: Path,
    out: Path,
    *,
    device: str,
    mask_threshold: float,
    max_proposals: int,
    limit: int | None,
) -> None:
    """Measure the recall of a proposal network and write to `out`.

    metrics.json   see `measure_recall`
    recall.tsv     nouns and measure, recall
    training.tsv   step, loss, learning_rate

    Args:
        model: folder of the network.
        images, truth, limit: see `measure_recall`.
        out: folder; made if needed.
        device, mask_threshold, max_proposals: see `proposals.proposal_network`.

    Raises:
        OvsegError: as `measure_recall` and `load_network`.
    """
    found = measure_recall(proposal_network_source(model, mask_threshold, max_proposals, device), images, truth, limit)
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [
        (f"{group}, {words}", f"{found[measure + suffix]:.4f}")
        for suffix, group in GROUPS.items()
        for measure, words in MEASURES.items()
        if measure + suffix in found
    ]
    write_tsv(out / "recall.tsv", ("masks", "recall"), rows)
    shutil.copyfile(model / CURVES, out / CURVES)
