"""Checkpoints of `transformers` that make masks: from the Hub or a folder, every key of their weights accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ovseg.errors import OvsegError


def load_checkpoint(model: str, source: str, kinds: Sequence[str], task: str) -> tuple[Any, Any]:
    """The network, in eval mode on the CPU, and the image processor of a checkpoint.

    Args:
        model: name on the Hub, or folder.
        source: that needs it, for the messages.
        kinds: model types of transformers that it takes.
        task: name of the class that loads them ("AutoModelForUniversalSegmentation").

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded, is of another kind, or lacks weights.
    """
    try:
        import transformers
    except ImportError:
        raise OvsegError(f"the proposal source {source!r} needs transformers: pip install 'ovseg[propose]'") from None
    try:
        kind = transformers.AutoConfig.from_pretrained(model).model_type.removesuffix("_video")
        if kind not in kinds:
            raise OvsegError(f"{model} is a {kind}; the source {source!r} takes {' or '.join(kinds)}")
        processor = transformers.AutoImageProcessor.from_pretrained(model)
        network, found = getattr(transformers, task).from_pretrained(model, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        where = "folder" if Path(model).exists() else "checkpoint (is the name right, and is there a network?)"
        raise OvsegError(f"cannot load the {where} {model!r}: {[*str(error).splitlines(), error][0]}") from None
    absent = sorted(found["missing_keys"])
    if absent:  # transformers would leave them random
        raise OvsegError(f"the weights of {model!r} lack {len(absent)} keys, among them {', '.join(absent[:5])}")
    return network.eval(), processor
