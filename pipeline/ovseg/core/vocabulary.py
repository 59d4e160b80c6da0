"""From class names to embeddings: text templates, and one unit vector for each distinct name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ovseg.core.options import Templates

Encode = Callable[[list[str]], Tensor]
"""A text encoder: N texts to float32 unit vectors `[N, D]`."""
LOGIT_SCALE = 100.0
"""Factor on cosine similarities before a softmax: that of the published CLIPs, fixed for every model."""

TEXTS_AT_A_TIME = 4096

_SIZES = ("small", "medium", "large")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "single": ("a photo of a {}.",),
    # ViLD's 14 (paper A.2): photo / this is / there is in the scene, plain and in three sizes. Four end without a full stop,
    # as in the published segmenters, whose class heads were trained against those embeddings.
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        *(f"a photo of a {size} {{}}." for size in _SIZES),
        *(f"This is a photo of a {size} {{}}." for size in _SIZES),
        *(f"There is a {size} {{}} in the scene." for size in _SIZES),
    ),
}


def embed(names: Sequence[str], encode: Encode, templates: Templates, batch_size: int = TEXTS_AT_A_TIME) -> Tensor:
    """Embed names: the normalized mean of the unit vectors of each name's templates (paper A.2).

    Args:
        names: N distinct class names.
        encode: the text encoder.
        templates: key of `TEMPLATES`.
        batch_size: number of texts that are handed to the encoder at a time; it limits the memory, and changes no result.

    Returns:
        float32 unit vectors `[N, D]`.
    """
    return torch.nn.functional.normalize(template_embeddings(names, encode, templates, batch_size).mean(1), dim=-1)


def template_embeddings(
    names: Sequence[str], encode: Encode, templates: Templates, batch_size: int = TEXTS_AT_A_TIME
) -> Tensor:
    """Return the unit vectors of each name in each of T templates, float32 `[N, T, D]`; see `embed` for the arguments."""
    forms = TEMPLATES[templates]
    texts = [form.format(name) for name in names for form in forms]
    encoded = torch.cat([encode(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])
    return encoded.reshape(len(names), len(forms), -1)
