"""Where evaluations keep what others need not compute again: the network's predictions, and CLIP's embeddings of regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.clip import embedding_files
from ovseg.core import hashing, tables
from ovseg.core.options import CropOptions, Precision, SegmentOptions, View
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
    predictions = {"network": tables.content_hash(network), "precision": options.network_precision}
    return Store(
        work / prediction_store.FOLDER / _name("predictions", prediction_store.__name__, device, **predictions),
        {
            name: region_folder(work, path, crop, device, view=options.view, precision=options.precision)
            for name, path in clips.items()
        },
    )


def region_folder(
    work: Path,
    clip: Path,
    crop: CropOptions,
    device: str,
    *,
    view: View = "crop-and-mask",
    precision: Precision = "fp32",
    prompts: bool = True,
) -> Path:
    """Return the folder of a CLIP's embeddings of regions.

    Args:
        work: the folder of unfinished work.
        clip: the folder of the CLIP.
        crop, view: what it sees of a region.
        device: the torch device; another kind of device rounds otherwise.
        precision: what it computes in.
        prompts: whether its mask prompts are used, if it has any.
    """
    encoder = {"view": view, "precision": precision, "prompts": prompts, "crop": crop.model_dump(mode="json")}
    name = _name("regions", "ovseg.evaluation.region_store", device, clip=tables.content_hash(clip), **encoder)
    return work / embedding_files.FOLDER / name


def _name(step: str, module: str, device: str, **parts: Any) -> str:
    key = step_key(step, module, device=device.split(":", maxsplit=1)[0], **parts)
    return hashing.fingerprint(key=key.fingerprint, code=key.code_hash)
