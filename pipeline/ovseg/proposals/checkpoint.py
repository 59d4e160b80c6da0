"""Load checkpoints of `transformers` from the Hub or a folder; a checkpoint that lacks weights is an error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovseg.core import weights
from ovseg.core.checkpoints import SHARD_INDEX_SUFFIX, files_of, read_weights, shard_names
from ovseg.core.errors import OvsegError
from ovseg.core.weights import Weights
from ovseg.engine.weight_files import fetch_from_hub, respect_offline

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
HF_DOWNLOAD_ARGUMENTS = '--include "*.json" --include "model*.safetensors" --include README.md'
# gigabytes of the checkpoints that recipes and documentation name
SIZES = {
    "facebook/maskformer-swin-base-coco": 0.4,
    "facebook/sam2.1-hiera-large": 0.9,
    "microsoft/swin-base-patch4-window12-384-in22k": 0.4,
}


def load_checkpoint(model: str, source: str, kinds: Sequence[str], task: str) -> tuple[Any, Any]:
    """Load a checkpoint.

    Args:
        model: name on the Hub, or local folder.
        source: proposal source that uses it, for error messages.
        kinds: model types of transformers that the source supports.
        task: name of the class that loads them ("AutoModelForUniversalSegmentation").

    Returns:
        the network in eval mode on the CPU, and its image processor.

    Raises:
        OvsegError: transformers is not installed; the checkpoint cannot be loaded, is of another kind, or lacks weights.
    """
    try:
        import transformers
    except ImportError:
        raise OvsegError(
            f"the proposal source {source!r} needs transformers: pip install -e '.[propose]' in the clone"
        ) from None
    folder = find_config(model)
    try:
        with respect_offline():
            kind = transformers.AutoConfig.from_pretrained(folder).model_type.removesuffix("_video")
            if kind not in kinds:
                raise OvsegError(f"{model} is a {kind}; the source {source!r} needs a {' or '.join(kinds)}")
            find_weights(model)
            find_processor(model)
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            network, loading_info = getattr(transformers, task).from_pretrained(folder, output_loading_info=True)
    except OvsegError:
        raise
    except Exception as error:  # torch raises errors of many kinds for files that are no weights
        place = "folder" if Path(model).is_dir() else "checkpoint"
        raise OvsegError(f"cannot load the {place} {model!r}: {_describe(model, error)}") from None
    missing = sorted(loading_info["missing_keys"])
    if missing:  # transformers initializes them randomly and goes on
        raise OvsegError(f"the weights of {model!r} lack {len(missing)} keys, among them {', '.join(missing[:5])}")
    return network.eval(), processor


def find_config(model: str) -> Path:
    """Find the folder with a checkpoint's config.json: a local folder, or one in the Hub's cache.

    Args:
        model: name on the Hub, or local folder.

    Raises:
        OvsegError: the local folder has no config.json; or see `weight_files.fetch_from_hub`.
    """
    if Path(model).is_dir():
        if not (Path(model) / CONFIG).is_file():
            raise OvsegError(f"cannot load the folder {model!r}: it has no {CONFIG} of transformers")
        return Path(model)
    what, size = f"the checkpoint {model}", SIZES.get(model)
    return fetch_from_hub(what, model, [CONFIG], lambda: size, hf_download_arguments=HF_DOWNLOAD_ARGUMENTS).parent


def find_weights(model: str) -> list[Path]:
    """Find the files of a checkpoint's weights: a single file, or an index followed by its shards.

    Args:
        model: name on the Hub, or local folder.

    Raises:
        OvsegError: the local folder has no weights; or see `find_config`.
    """
    if Path(model).is_dir():
        first = next((Path(model) / name for name in WEIGHTS if (Path(model) / name).is_file()), None)
        if first is None:
            raise OvsegError(f"cannot load the folder {model!r}: it has none of {', '.join(WEIGHTS)}")
        return files_of(first)
    commit = weights.revision(find_config(model) / CONFIG)
    what = f"the weights of {model}"
    first = fetch_from_hub(what, model, WEIGHTS, lambda: SIZES.get(model), commit)
    names = shard_names(first) if first.name.endswith(SHARD_INDEX_SUFFIX) else []
    shards = [fetch_from_hub(what, model, [name], lambda: None, commit) for name in names]
    return [first, *shards]


def find_processor(model: str) -> list[Path]:
    """Find the files of a checkpoint's image processor.

    Args:
        model: name on the Hub, or local folder.

    Raises:
        OvsegError: see `find_config`.
    """
    folder = find_config(model)
    if not Path(model).is_dir():
        commit = weights.revision(folder / CONFIG)
        what = f"the image processor of {model}"
        fetch_from_hub(what, model, PROCESSORS, lambda: 0.0, commit)
        with suppress(OvsegError):  # some repositories have both
            fetch_from_hub(what, model, PROCESSORS[1:], commit=commit)
    return [folder / name for name in PROCESSORS if (folder / name).is_file()]


def identify_checkpoint(model: str) -> Weights:
    """Identify the weights of a checkpoint.

    Raises:
        OvsegError: see `find_weights`.
    """
    return weights.identify(model, None, find_weights(model))


def checkpoint_fingerprint(model: str) -> str:
    """Hash all files that a checkpoint's masks depend on: config, image processor and weights.

    Raises:
        OvsegError: see `find_weights`.
    """
    return weights.sha256(find_config(model) / CONFIG, *find_processor(model), *find_weights(model))


def _describe(model: str, error: Exception) -> str:
    """Why a checkpoint could not be loaded: what is wrong with a file of its weights, or else the error itself."""
    try:
        for path in find_weights(model):
            if not path.name.endswith(SHARD_INDEX_SUFFIX):
                read_weights(path)
    except OvsegError as problem:
        return str(problem)
    return [*str(error).splitlines(), repr(error)][0]
