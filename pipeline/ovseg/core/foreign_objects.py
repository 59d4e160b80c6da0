"""Read the tensors of a pickle of torch that holds other objects too, without running any of the code that it names.

The unpickler rebuilds tensors and plain containers. Every other class or function becomes `Inert`, which takes what is done
to it and does nothing.
"""

from __future__ import annotations

import pickle  # only its `Unpickler`, with the list below of what it may rebuild
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.core.errors import OvsegError
from ovseg.core.tensor_files import write_tensors

PLAIN = {
    "builtins": {
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "set",
        "str",
        "tuple",
    },
    "collections": {"Counter", "OrderedDict"},
    "_codecs": {"encode"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch.nn.parameter": {"Parameter"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2"},
}
"""What the unpickler may call, by module: most of what torch's `weights_only` may, and the types of plain data."""
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names of modules in older pickle protocols


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not known: it takes all calls, items and states, and does nothing."""

    state: object = None

    def __new__(cls, *_args: object, **_options: object) -> Inert:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *_args: object, **_options: object) -> Inert:  # noqa: D102
        return Inert()

    def append(self, _item: object) -> None: ...  # noqa: D102
    def extend(self, _items: object) -> None: ...  # noqa: D102
    def add(self, _item: object) -> None: ...  # noqa: D102

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


def extract_weights(checkpoint: Path, out: Path) -> tuple[int, list[str]]:
    """Write the weights in a pickle of torch to a safetensors file, and run no code of the pickle.

    Args:
        checkpoint: pickle of torch that holds the weights alone, as "state_dict" or "model", or as a whole module.
        out: safetensors file to write; it must not exist.

    Returns:
        the number of tensors, and the names of the classes and functions that were left out, sorted.

    Raises:
        OvsegError: `out` exists or is no name of a safetensors file; `checkpoint` cannot be read, or holds no weights.
    """
    if out.exists() or out.suffix != ".safetensors":
        raise OvsegError(f"{out} exists or does not end with .safetensors; give another name")
    if not checkpoint.is_file():
        raise OvsegError(f"{checkpoint} is not a file; give a checkpoint of torch.save")
    try:
        loaded, objects = _load(checkpoint)
    except Exception as error:  # a file that is no pickle, or a damaged one, can raise anything
        raise OvsegError(f"{checkpoint} is not a checkpoint of torch.save, or it is damaged: {error!r}") from None
    tensors = dict(_tensors_in(loaded))
    if not tensors:
        raise OvsegError(
            f"{checkpoint} holds no dict of tensors; beside plain data it holds {', '.join(objects) or 'nothing'}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)
    return len(tensors), objects


def list_foreign_objects(checkpoint: Path) -> list[str] | None:
    """List the names of the classes and functions in a pickle of torch, but for plain data; None if it is no such pickle."""
    try:
        return _load(checkpoint)[1]
    except Exception:  # see `extract_weights`
        return None


def _load(path: Path) -> tuple[Any, list[str]]:
    """What a pickle holds, with `Inert` instead of every object that is not plain, and the names of those."""
    names: set[str] = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = PYTHON_2.get(module, module)
            if name in PLAIN.get(module, ()):
                return super().find_class(module, name)
            known = getattr(torch, name, None) if module == "torch" else None
            if isinstance(known, torch.dtype) or (isinstance(known, type) and name.endswith("Storage")):
                return known
            names.add(f"{module}.{name}")
            return type(name, (Inert,), {})

    reader = types.SimpleNamespace(
        Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load(), __name__=__name__
    )
    mmap = zipfile.is_zipfile(path)  # torch's older format cannot be read lazily
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the source code of modules, and of pickle protocols
        loaded = torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader, mmap=mmap)
    return loaded, sorted(names)


def _tensors_in(loaded: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The weights in a checkpoint by name: those of a dict, of "state_dict" or "model" in it, or of a module."""
    if isinstance(loaded, Inert) and isinstance(loaded.state, Mapping) and "_modules" in loaded.state:
        for kind in ("_parameters", "_buffers"):
            yield from _tensors_in(loaded.state.get(kind, {}), prefix)
        for name, module in loaded.state["_modules"].items():
            yield from _tensors_in(module, f"{prefix}{name}.")
    elif isinstance(loaded, Mapping):
        if not prefix:
            inner = next((loaded[key] for key in ("state_dict", "model") if key in loaded), None)
            if inner is not None:
                yield from _tensors_in(inner)
                return
        for name, value in loaded.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
