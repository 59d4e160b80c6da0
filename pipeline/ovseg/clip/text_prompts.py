"""Learned text prompts: context vectors in front of a class name, instead of text templates (SimBaseline, after CoOp).

A text is: start, the C context vectors, the tokens of "NAME.", end. Positional embeddings are added after that, and the
embedding is that of the end token. The context vectors are the same for all names.

Shapes: N texts, T context length of the text tower, C context vectors, W width of the text tower, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ovseg.core.errors import OvsegError

TEXT_PROMPTS = "text_prompts.safetensors"
NUM_CONTEXT = 16
INIT_STD = 0.02
PLACEHOLDER = 0
ROOM = 4  # positions that the context vectors leave at least: start, a token of a name, the full stop, end


def is_causal(model: nn.Module) -> bool:
    """Whether the padding after the end-of-text token cannot change the embedding, as in OpenAI's text tower."""
    return getattr(model, "attn_mask", None) is not None and getattr(model, "text_pool_type", None) == "argmax"


def encode_short(model: nn.Module, tokens: Tensor) -> Tensor:
    """Encode the first tokens of texts: nouns fill a fifth of the 77 tokens, so this is about five times faster.

    Args:
        model: a model of open_clip with a causal text tower.
        tokens: int64 `[N, L]`, L <= T, with the end of each text.

    Returns:
        `[N, D]`.
    """
    length = tokens.shape[1]
    state: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shorter = {
        "positional_embedding": state["positional_embedding"][:length],
        "attn_mask": model.attn_mask[:length, :length],  # type: ignore[index]
    }
    outputs = torch.func.functional_call(model, shorter, kwargs={"image": None, "text": tokens})
    features: Tensor = outputs["text_features"] if isinstance(outputs, dict) else outputs[1]
    return features


def new_text_prompts(model: nn.Module, seed: int, number: int = NUM_CONTEXT) -> Tensor:
    """Draw context vectors from a normal distribution with mean 0 and standard deviation 0.02.

    Args:
        model: a model of open_clip.
        seed: the seed of the values.
        number: C.

    Returns:
        float32 `[C, W]`.

    Raises:
        OvsegError: the text tower is of another kind than OpenAI's, or too short for them.
    """
    source = "finetune.method=text_prompts"
    width, _ = _text_tower_shape(model, source)
    prompts = torch.normal(0.0, INIT_STD, (number, width), generator=torch.Generator().manual_seed(seed))
    return check_text_prompts(prompts, model, source)


def check_text_prompts(prompts: Tensor, model: nn.Module, source: object) -> Tensor:
    """Check that context vectors fit the text tower of a model.

    Args:
        prompts: `[C, W]`.
        model: a model of open_clip.
        source: where they come from, for messages.

    Returns:
        the same tensor.

    Raises:
        OvsegError: the text tower is of another kind than OpenAI's, has another width, or is too short for them; or some values
            are not finite.
    """
    width, context = _text_tower_shape(model, source)
    if prompts.ndim != 2 or prompts.shape[1] != width:
        raise OvsegError(
            f"{source} is {list(prompts.shape)}, not [vectors, {width}], as the text tower of this CLIP needs"
        )
    if len(prompts) + ROOM > context:
        raise OvsegError(
            f"{source}: {len(prompts)} context vectors leave no room for a name in the {context} positions of this CLIP's text "
            "tower"
        )
    if not prompts.isfinite().all():
        raise OvsegError(f"{source}: some text prompts are not finite numbers; take a checkpoint of an earlier epoch")
    return prompts


def _text_tower_shape(model: nn.Module, source: object) -> tuple[int, int]:
    """Return W and T."""
    if not is_causal(model):
        raise OvsegError(
            f"{source}: learned text prompts need a causal text tower with an end token, as OpenAI's CLIPs have; this CLIP has "
            "another one, so use text templates (finetune.method=crops)"
        )
    context, width = cast(Tensor, model.positional_embedding).shape
    return width, context


def read_text_prompts(path: Path, model: nn.Module) -> Tensor:
    """Read context vectors, float32 `[C, W]`, from a file for a model.

    Raises:
        OvsegError: the file does not hold text prompts, or they do not fit; see `check_text_prompts`.
    """
    try:
        with safe_open(path, "pt") as file:
            prompts: Tensor = file.get_tensor("prompts")
    except (OSError, SafetensorError) as error:
        raise OvsegError(f"{path} holds no text prompts: {error}") from None
    return check_text_prompts(prompts, model, path)


def prompted_tokens(tokenizer: Any, names: list[str], number: int) -> Tensor:
    """Tokenize names with room for context vectors.

    Args:
        tokenizer: the tokenizer of the CLIP.
        names: N names.
        number: C.

    Returns:
        int64 `[N, T]`: start, C placeholders, the tokens of "NAME.", end, zeros. A name that is too long is cut.
    """
    tokens: Tensor = tokenizer([f"{name}." for name in names])
    start, rest = tokens[:, :1], tokens[:, 1:]
    room = torch.full((len(tokens), number), PLACEHOLDER, dtype=tokens.dtype)
    prompted = torch.cat([start, room, rest], dim=1)[:, : tokens.shape[1]]
    end = tokens.amax(1)  # the end token has the highest number
    cut = prompted.amax(1) < end
    prompted[cut, -1] = end[cut]
    return prompted


@contextmanager
def text_prompts_applied(model: nn.Module, prompts: Tensor) -> Iterator[None]:
    """Put context vectors in the place of the placeholders during the forward passes of texts in this context.

    Args:
        model: a model of open_clip with a causal text tower; its texts must be of `prompted_tokens`.
        prompts: `[C, W]`; they get gradients if they require them.
    """

    def insert(_module: nn.Module, _inputs: object, embedded: Tensor) -> Tensor:
        vectors = prompts.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, :1], vectors, embedded[:, 1 + len(prompts) :]], dim=1)

    handle = cast(nn.Module, model.token_embedding).register_forward_hook(insert)
    try:
        yield
    finally:
        handle.remove()
