"""The held-out masks in groups, such as those of one size, and the mask accuracy of a CLIP in each group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.method_runs import measure
from ovseg.core import masks
from ovseg.core.masks import MaskArray
from ovseg.core.params import Params
from ovseg.engine.runtime import Runtime


def heldout_masks(annotations: Path) -> Iterator[MaskArray]:
    """Yield the masks of a COCO file of run-length encoded masks in its order, bool `[H, W]` each."""
    for annotation in json.loads(annotations.read_text(encoding="utf-8"))["annotations"]:
        rle = annotation["segmentation"]
        yield masks.decode(rle["counts"].encode(), *rle["size"])


def write_groups(annotations: Path, group_of: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write the annotations of each group to a file of their own.

    Args:
        annotations: a COCO file.
        group_of: the group of each of its annotations.
        folder: the folder of the files.

    Returns:
        the file of each group, in the order of first appearance.
    """
    content = json.loads(annotations.read_text(encoding="utf-8"))
    files = {group: folder / f"{number}.json" for number, group in enumerate(dict.fromkeys(group_of))}
    for group, file in files.items():
        chosen = [a for a, of in zip(content["annotations"], group_of, strict=True) if of == group]
        file.write_text(json.dumps(content | {"annotations": chosen}), encoding="utf-8")
    return files


def measure_groups(
    params: Params, clip: Path, groups: Mapping[str, Path], runtime: Runtime
) -> dict[str, dict[str, float]]:
    """Return "masks" and "mask_accuracy" of a CLIP in each group."""
    measured = {group: measure(params, clip, file, runtime, params.crop) for group, file in groups.items()}
    return {
        group: {"masks": figures["regions"], "mask_accuracy": round(figures["mask_accuracy"], 6)}
        for group, figures in measured.items()
    }
