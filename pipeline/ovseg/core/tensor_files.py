"""Write tensors to safetensors files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

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
