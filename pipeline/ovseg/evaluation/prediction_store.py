"""Predictions of the proposal network, which are computed only if no earlier evaluation has stored them.

Benchmarks share images, so the network need not see an image again. A file is named after the content of the image, in a folder
that is named after the network, so it can never be out of date.

Shapes: Q queries, D joint embedding, h, w grid of the masks.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.core.images import ImageArray
from ovseg.core.tensor_files import keep_tensors, read_kept_tensors
from ovseg.proposals.network import NetworkOutput, ProposalNetwork

FOLDER = "predictions"
"""The folder of all networks' folders, in the folder of unfinished work; it can be deleted at any time."""
LARGEST = 2**22
"""Bytes of the masks of an image above which they are not kept: 5,000 images of 100 masks at 640 pixels would take 70 GB."""


def predict(folder: Path, network: ProposalNetwork, pixels: ImageArray, image: str) -> NetworkOutput:
    """Return the prediction for an image.

    Args:
        folder: the folder of the network's predictions.
        network: the network.
        pixels: uint8 RGB `[H, W, 3]`.
        image: its `image_hash`.
    """
    path = folder / f"{image}.safetensors"
    stored = read_kept_tensors(path)
    if stored:
        return NetworkOutput(
            stored["query_embeddings"],
            stored["no_object_embedding"],
            stored["mask_logits"].to(network.model.device),
            tuple(stored["extent"].tolist()),
        )
    output = network.predict(pixels)
    if output.mask_logits.nbytes <= LARGEST:
        extent = torch.tensor(output.extent, dtype=torch.float64)
        keep_tensors({**vars(output), "mask_logits": output.mask_logits.cpu().contiguous(), "extent": extent}, path)
    return output
