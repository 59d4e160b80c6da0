"""Checkpoints of `transformers`: found on the Hub or in a folder, every key of their weights accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ovseg.core import weights
from ovseg.core.errors import OvsegError
from ovseg.core.weights import Weights
from ovseg.engine.weight_files import fetch_from_hub, respect_offline

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX, "pytorch_model.bin")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
WANTED = '--include "*.json" --include "model*.safetensors" --include README.md'
SIZES = {  # gigabytes of those that recipes and documentation name
    "facebook/maskformer-swin-base-coco": 0.4,
    "facebook/sam2.1-hiera-large": 0.9,
    "microsoft/swin-base-patch4-window12-384-in22k": 0.4,
}


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
    where = find_config(model)
    kind_of_place = "folder" if Path(model).is_dir() else "checkpoint"
    try:
        with respect_offline():
            kind = transformers.AutoConfig.from_pretrained(where).model_type.removesuffix("_video")
            if kind not in kinds:
                raise OvsegError(f"{model} is a {kind}; the source {source!r} takes {' or '.join(kinds)}")
            find_weights(model)
            find_processor(model)
            processor = transformers.AutoImageProcessor.from_pretrained(where)
            network, found = getattr(transformers, task).from_pretrained(where, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise OvsegError(f"cannot load the {kind_of_place} {model!r}: {[*str(error).splitlines(), error][0]}") from None
    absent = sorted(found["missing_keys"])
    if absent:  # transformers would leave them random
        raise OvsegError(f"the weights of {model!r} lack {len(absent)} keys, among them {', '.join(absent[:5])}")
    return network.eval(), processor


def find_config(model: str) -> Path:
    """The folder of a checkpoint with its config.json in it: the folder itself, or that of the Hub's cache.

    Raises:
        OvsegError: see `weight_files.fetch_from_hub`; the folder holds none.
    """
    if Path(model).is_dir():
        if not (Path(model) / CONFIG).is_file():
            raise OvsegError(f"cannot load the folder {model!r}: it holds no {CONFIG} of transformers")
        return Path(model)
    what, size = f"the checkpoint {model}", SIZES.get(model)
    return fetch_from_hub(what, model, [CONFIG], lambda: size, hf_download_arguments=WANTED).parent


def find_weights(model: str) -> list[Path]:
    """The files of a checkpoint's weights: one, or its shards after their index.

    Raises:
        OvsegError: as `find_config`.
    """
    if Path(model).is_dir():
        found = [Path(model) / name for name in WEIGHTS if (Path(model) / name).is_file()]
        if not found:
            raise OvsegError(f"cannot load the folder {model!r}: it holds none of {', '.join(WEIGHTS)}")
        return [found[0], *(found[0].parent / name for name in _shards(found[0]))]
    commit = weights.revision(find_config(model) / CONFIG)
    what = f"the weights of {model}"
    first = fetch_from_hub(what, model, WEIGHTS, lambda: SIZES.get(model), commit)
    shards = [fetch_from_hub(what, model, [name], lambda: None, commit) for name in _shards(first)]
    return [first, *shards]


def find_processor(model: str) -> list[Path]:
    """The files that say how a checkpoint wants its images.

    Raises:
        OvsegError: as `find_config`.
    """
    folder = find_config(model)
    if not Path(model).is_dir():
        commit = weights.revision(folder / CONFIG)
        what = f"the image processor of {model}"
        fetch_from_hub(what, model, PROCESSORS, lambda: 0.0, commit)
        with suppress(OvsegError):  # some repositories hold both
            fetch_from_hub(what, model, PROCESSORS[1:], commit=commit)
    return [folder / name for name in PROCESSORS if (folder / name).is_file()]


def identify_checkpoint(model: str) -> Weights:
    """Exactly which weights a checkpoint has.

    Raises:
        OvsegError: as `find_config`.
    """
    return weights.identify(model, None, find_weights(model))


def checkpoint_fingerprint(model: str) -> str:
    """What a checkpoint's masks depend on: its weights, its config, and how it wants its images.

    Raises:
        OvsegError: as `find_config`.
    """
    return weights.sha256(find_config(model) / CONFIG, *find_processor(model), *find_weights(model))


def _shards(path: Path) -> list[str]:
    if path.name != INDEX:
        return []
    return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
