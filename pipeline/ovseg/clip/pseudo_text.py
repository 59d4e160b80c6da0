"""Class embeddings that depend on the image: MaskCLIP++'s PSM for ConvNeXt towers, its pseudo-texts (arXiv 2412.11464).

The text embedding t of a name attends to the embeddings c of the cells of the image, and the score of a region r is

    r . LayerNorm(t + Attention(query=t, keys=W c, values=W c))

without a logit scale: the gain of the layer norm takes its place. The embedding of a cell is that of it as a region.

Shapes: B images, C cells of an image, M texts, V regions of an image, D joint embedding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg.core.errors import OvsegError
from ovseg.core.tensor_files import write_weights
from ovseg.core.vocabulary import LOGIT_SCALE

PSEUDO_TEXT = "pseudo_text.safetensors"
HEADS, DROPOUT = 8, 0.1


class PseudoText(nn.Module):
    """Changes text embeddings by what an image shows.

    A new one adds nothing to the texts, whose scores are then those of the layer norm alone.

    Args:
        width: D, a multiple of 8.

    Raises:
        OvsegError: D is no multiple of the number of attention heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % HEADS:
            raise OvsegError(
                f"pseudo-texts have {HEADS} attention heads, which do not divide the joint embedding of width {width}; set "
                "finetune.psm=linear"
            )
        self.project = nn.Linear(width, width, bias=False)
        self.attention = nn.MultiheadAttention(width, HEADS, DROPOUT, batch_first=True)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, texts: Tensor, cells: Tensor) -> Tensor:
        """Return the pseudo-texts of images.

        Args:
            texts: unit vectors `[M, D]`.
            cells: unit vectors `[B, C, D]`.

        Returns:
            `[B, M, D]`, no unit vectors.
        """
        of_images = texts.expand(len(cells), -1, -1)
        keys = self.project(cells)
        attended, _ = self.attention(of_images, keys, keys, need_weights=False)
        normalized: Tensor = self.norm(of_images + attended)
        return normalized


@torch.inference_mode()
def compare(
    regions: Tensor, texts: Tensor, pseudo_text: PseudoText | None = None, cells: Tensor | None = None
) -> Tensor:
    """Return the similarities of the regions of an image and texts, float32 `[V, M]` on the CPU.

    Args:
        regions: unit vectors `[V, D]`.
        texts: `[M, D]`, see `Clip.embed_names`.
        pseudo_text: that of the CLIP, if it has one.
        cells: the cells of the image, unit vectors `[C, D]`; needed with pseudo-texts, ignored without.

    Returns:
        the products of regions and texts, cosines if both are unit vectors. With pseudo-texts their scores, divided by the
            factor that turns cosines into logits, so that both are used alike.

    Raises:
        ValueError: there are pseudo-texts, and no cells.
    """
    if pseudo_text is None:
        return regions @ texts.T
    if cells is None or not len(cells):
        raise ValueError("a CLIP with pseudo-texts needs the cells of the image")
    device = pseudo_text.norm.weight.device
    of_image: Tensor = pseudo_text(texts.to(device), cells[None].to(device))[0]
    return (regions.to(device) @ of_image.T).cpu() / LOGIT_SCALE


def new_pseudo_text(width: int, seed: int) -> PseudoText:
    """Make an untrained `PseudoText` with seeded weights; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PseudoText(width)


def write_pseudo_text(pseudo_text: PseudoText, folder: Path) -> None:
    """Write the weights to the folder of a CLIP, as float32."""
    write_weights(pseudo_text.state_dict(), folder / PSEUDO_TEXT)


def read_pseudo_text(path: Path, width: int) -> PseudoText:
    """Read a file of `write_pseudo_text`: frozen, in float32 on the CPU.

    Args:
        path: the file.
        width: D of the CLIP that it is for.

    Raises:
        OvsegError: the file holds no pseudo-texts, or those of another D.
    """
    try:
        state = load_file(path)
        of_file = state["project.weight"].shape[0]
        pseudo_text = PseudoText(of_file)
        pseudo_text.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, RuntimeError, OvsegError) as error:
        problem = " ".join(str(error).split())[:400]
        raise OvsegError(
            f"{path} holds no pseudo-texts: {problem}; copy it again from where the model comes from"
        ) from None
    if of_file != width:
        raise OvsegError(
            f"{path} is for embeddings of width {of_file}, this CLIP has {width}; take the file that was trained with this CLIP"
        )
    return pseudo_text.requires_grad_(False).eval()
