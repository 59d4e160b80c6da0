"""Where evaluations keep what others need not compute again: the network's predictions, and CLIP's embeddings of regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.clip import embedding_files
from ovseg.core import hashing, tables
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.fingerprint import step_key
from ovseg.evaluation import prediction_store


@dataclass(frozen=True)
class Store:
    """Folders, each named after all that its content depends on besides images and masks.

    Attributes:
        network: the folder of the network's predictions, see `prediction_store`.
        clips: the folder of the embeddings of each CLIP by its name, see `region_store`.
    """

    network: Path
    clips: Mapping[str, Path]


def open_store(
    work: Path, network: Path, clips: Mapping[str, Path], options: SegmentOptions, crop: CropOptions, device: str
) -> Store:
    """Return the store of a proposal network and some CLIPs.

    Args:
        work: the folder of unfinished work.
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name.
        options, crop: the view of a region, the precisions, and the crop recipe.
        device: the torch device; another kind of device rounds otherwise.
    """
    kind = device.split(":", maxsplit=1)[0]

    def named(step: str, module: str, **parts: Any) -> str:
        key = step_key(step, module, device=kind, **parts)
        return hashing.fingerprint(key=key.fingerprint, code=key.code_hash)

    encoder = {"view": options.view, "precision": options.precision, "crop": crop.model_dump(mode="json")}
    predictions = {"network": tables.content_hash(network), "precision": options.network_precision}
    return Store(
        work / prediction_store.FOLDER / named("predictions", "ovseg.evaluation.prediction_store", **predictions),
        {
            name: work
            / embedding_files.FOLDER
            / named("regions", "ovseg.evaluation.region_store", clip=tables.content_hash(path), **encoder)
            for name, path in clips.items()
        },
    )
