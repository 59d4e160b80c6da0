"""Write tensors to safetensors files, and keep tensors that need not be computed again."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor

log = logging.getLogger("ovseg")

OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of safetensors, whose errors have no errno


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors by name, with metadata, to a safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    except SafetensorError as error:
        if code := OS_ERROR.search(str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
        raise


def write_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write learned weights by name, with metadata, to a safetensors file, as float32.

    Raises:
        OSError: the file cannot be written.
    """
    write_tensors({name: value.detach().float().cpu().contiguous() for name, value in weights.items()}, path, metadata)


def keep_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write contiguous tensors by name to a safetensors file at once: other processes see all of it or nothing.

    Args:
        tensors: the tensors.
        path: the file; its folder is created.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`: its files can be read by their owner alone.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(save(dict(tensors)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_kept_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `keep_tensors` wrote; nothing if there is no such file, or it is damaged, which is logged."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read (%s); what it held is computed again", path, error)
        return {}
