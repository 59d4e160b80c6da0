"""Weights files from elsewhere: safetensors, pickles of torch, and either of them in several shards with an index.

A pickle can hold any Python object, and rebuilding an object can run code. So pickles are read by torch's `weights_only`
unpickler, which refuses everything but tensors and plain data. `foreign_objects.extract_tensors` reads the tensors of a
refused one.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovseg.core.errors import OvsegError
from ovseg.core.foreign_objects import list_foreign_objects
from ovseg.core.json_files import read_json

SHARD_INDEX_SUFFIX = ".index.json"
STATE_KEYS = ("state_dict", "model")  # where checkpoints of open_clip and of detectron2 hold their weights
RANK_PREFIX = "module."  # which DistributedDataParallel adds to names
HARMFUL = frozenset({"os", "posix", "nt", "sys", "subprocess", "builtins", "shutil", "socket", "runpy"})
"""Modules of which no checkpoint needs a function: a pickle that names one is meant to do harm."""
LFS_POINTER, WEB_PAGE = b"version https://git-lfs", (b"<!doctype", b"<html")
PICKLES = (b"PK\x03\x04", b"\x80")  # torch's format, a zip file, and its older one


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, without the prefix that DistributedDataParallel adds to their names.

    Args:
        path: a safetensors file, a pickle of torch that holds the weights alone or as "state_dict" or "model", or an index
            of such files, see `shards`.

    Raises:
        OvsegError: there is no such file; it cannot be read, see `describe_problem`; or it holds no dict of tensors.
    """
    try:
        loaded = _load(path)
    except Exception as error:  # torch.load has no exception of its own for what is not a checkpoint
        raise OvsegError(f"cannot read {path}: {describe_problem(path, error)}") from None
    state = next((loaded[key] for key in STATE_KEYS if key in loaded), loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise OvsegError(f"{path} is not a checkpoint: it holds no dict of tensors")
    return {str(name).removeprefix(RANK_PREFIX): tensor for name, tensor in state.items()}


def shard_names(index: Path) -> list[str]:
    """List the names of the files of a checkpoint in shards.

    Args:
        index: JSON file with a "weight_map" from the names of tensors to the names of files in the same folder.

    Raises:
        OvsegError: the index is damaged.
    """
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise OvsegError(f"{index} is not an index of shards ({error!r}); copy it again") from None
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise OvsegError(f"{index} is not an index of shards: it lists {names[:3]}, not files beside it; copy it again")
    return names


def shards(index: Path) -> list[Path]:
    """List the files of a checkpoint in shards, see `shard_names`.

    Raises:
        OvsegError: the index is damaged, or a file that it lists is missing.
    """
    names = shard_names(index)
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise OvsegError(
            f"{index} lists {len(names)} shards, and {len(missing)} of them are missing: {', '.join(missing[:4])}; copy "
            "them there, too"
        )
    return [index.parent / name for name in names]


def files_of(path: Path) -> list[Path]:
    """List the files that weights consist of: the file alone, or an index followed by its shards.

    Raises:
        OvsegError: see `shards`.
    """
    return [path, *shards(path)] if path.name.endswith(SHARD_INDEX_SUFFIX) else [path]


def describe_problem(path: Path, error: Exception) -> str:
    """Say why a weights file could not be loaded, and what to do about it.

    Args:
        path: the file, or the index of its shards.
        error: what the loader raised.

    Returns:
        the end of a sentence that begins with "cannot load PATH: ".
    """
    if isinstance(error, OvsegError):
        return str(error)
    for file in shards(path) if path.name.endswith(SHARD_INDEX_SUFFIX) else [path]:
        if problem := _look_at(file):
            return problem if file == path else f"{file.name}: {problem}"
    if "PytorchStreamReader" in str(error):
        return "it is cut off or damaged; copy or download it again"
    if "TorchScript" in str(error):
        return (
            "it is a TorchScript archive, which holds code. OpenAI published its weights in this format; "
            "clip.pretrained=openai loads the same ones as tensors"
        )
    if isinstance(error, (OSError, RuntimeError, SafetensorError)):
        return " ".join(line.strip()[:400] for line in str(error).splitlines()[:6]) or type(error).__name__
    return _describe_pickle(path)  # and not the message of torch, which proposes to run what is in the file


def _load(path: Path) -> Any:
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        return {name: tensor for shard in shards(path) for name, tensor in _load(shard).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    mmap = zipfile.is_zipfile(path)  # torch's older format cannot be read lazily
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _describe_pickle(path: Path) -> str:
    """Why the `weights_only` unpickler refuses a file."""
    objects = list_foreign_objects(path)
    if objects is None:
        return "it is not a checkpoint of torch.save, or it is damaged; copy or download it again"
    listed = ", ".join(objects[:4]) + (f" and {len(objects) - 4} more" if len(objects) > 4 else "")
    if harmful := next((name for name in objects if name.split(".")[0] in HARMFUL), None):
        return f"it holds {listed}, and no checkpoint needs {harmful}: do not trust this file, and do not load it elsewhere"
    reason = "it is not written as torch.save does by default"
    if objects:
        reason = f"beside tensors it holds {listed}, and rebuilding such objects can run code"
    return (
        f"{reason}; `ovseg extract-weights {path} {path.with_suffix('.safetensors')}` copies its tensors alone and runs "
        "nothing; give the file that it writes"
    )


def _look_at(path: Path) -> str | None:
    """What the first bytes of a file say of it, if they explain why it cannot be loaded."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except IsADirectoryError:
        return "it is a folder; give the file in it"
    except OSError as error:
        return f"{error.strerror}; check its name and its permissions"
    named, is_safetensors = path.suffix == ".safetensors", head[8:9] == b"{"
    problems = {
        "it is empty; copy or download it again": not head,
        "it is a pointer of Git LFS, not the weights; run `git lfs pull` where it was cloned": head.startswith(
            LFS_POINTER
        ),
        "it is a web page; download the file itself": head.lstrip().lower().startswith(WEB_PAGE),
        "it is a pickle of torch; rename it to .pt": named and not is_safetensors and head.startswith(PICKLES),
        "it is a safetensors file; rename it to .safetensors": is_safetensors and not named,
    }
    return next((problem for problem, applies in problems.items() if applies), None)
