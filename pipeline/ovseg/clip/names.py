"""How a CLIP is named on the command line. Nothing here imports torch, so that a typo is answered at once."""

from __future__ import annotations

from pathlib import Path

from ovseg.core.errors import OvsegError

RANDOM = "random"
SCHEMAS = ("local-dir:", "hf-hub:")
CONFIG = "open_clip_config.json"


def parse(text: str) -> tuple[str, str | None]:
    """Split the name of a CLIP into the arguments `model` and `pretrained` of `load_clip`.

    Args:
        text: "NAME:WEIGHTS" (a name of open_clip, and a tag of it, a weights file, a folder, or "random"),
            "local-dir:FOLDER", or "hf-hub:OWNER/NAME". A folder with open_clip's config is a model of its own, and any
            other folder holds weights of NAME.

    Raises:
        OvsegError: if the text is none of these.
    """
    if text.startswith(SCHEMAS):
        return text, None
    name, colon, weights = text.partition(":")
    if not colon or not name or not weights:
        raise OvsegError(
            f"--clip {text!r} must be NAME:WEIGHTS (a tag of open_clip, a file, a folder, or {RANDOM!r}), such as "
            "ViT-L-14-quickgelu:openai, or local-dir:FOLDER, or hf-hub:OWNER/NAME"
        )
    if (Path(weights) / CONFIG).is_file():
        return f"local-dir:{weights}", None
    return name, weights
