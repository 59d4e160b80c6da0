"""What a CLIP is made for: its region encoder, in region_encoder.json beside the files of open_clip.

A folder without the file is made for crops, as OVSeg's are. Stock open_clip does not read the file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.json_files import read_json
from ovseg.core.options import Coverage, Encoder, Templates
from ovseg.core.vocabulary import TEMPLATES

REGION_ENCODER = "region_encoder.json"


@dataclass(frozen=True)
class RegionSettings:
    """A region encoder and its parameters.

    Attributes:
        encoder: the name of the region encoder, see `regions`.
        start_block: the number of blocks that run without regions, for `region_tokens` and `biased_tokens`; None for two thirds
            of the tower's blocks, as in MAFT.
        coverage: what a region sees of a patch, for `region_tokens`; see `region_tokens.patch_weights`.
        image_size: side of the square that an image is resized to, in pixels; None for the CLIP's own. Crops have the CLIP's.
        log_bias: for `biased_tokens`: the logarithm of the bias of each block and head; None for the value before training.
        templates: the text templates that `template_weights` belong to; None without weights.
        template_weights: the learned weight of a region's similarity to a class name in each template (MaskCLIP++); None for
            the normalized mean of the templates.
    """

    encoder: Encoder = "crops"
    start_block: int | None = None
    image_size: int | None = None
    log_bias: tuple[tuple[float, ...], ...] | None = None
    templates: Templates | None = None
    template_weights: tuple[float, ...] | None = None
    coverage: Coverage = "half"


CROPS = RegionSettings()


def read_settings(folder: Path) -> RegionSettings:
    """Read what the CLIP in a folder is made for.

    Raises:
        OvsegError: region_encoder.json does not hold settings; the message says what is wrong.
    """
    path = folder / REGION_ENCODER
    if not path.is_file():
        return CROPS
    values = read_json(path)
    names = asdict(CROPS).keys()
    if not isinstance(values, dict) or not values.keys() <= names or values.get("encoder") not in get_args(Encoder):
        raise OvsegError(
            f"{path} is no object of {', '.join(names)} with one of the encoders {', '.join(get_args(Encoder))}; "
            "copy it again from where the model comes from, or remove it to use the model on crops"
        )
    for name, least in (("start_block", 0), ("image_size", 1)):
        number = values.get(name)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
            raise OvsegError(
                f"{path}: {name} is {number!r}, not a number from {least} on; copy the file again, or remove it"
            )
    coverage = values.get("coverage", CROPS.coverage)
    if coverage not in get_args(Coverage):
        raise OvsegError(
            f"{path}: coverage is {coverage!r}, not one of {', '.join(get_args(Coverage))}; copy the file again, or remove it"
        )
    rows = values.get("log_bias")
    try:
        log_bias = None if rows is None else tuple(tuple(float(value) for value in row) for row in rows)
    except (TypeError, ValueError):
        raise OvsegError(f"{path}: log_bias is no table of numbers; copy the file again") from None
    templates, weights = values.get("templates"), values.get("template_weights")
    if (templates, weights) != (None, None):
        number = len(TEMPLATES.get(str(templates), ()))
        if not number or not isinstance(weights, list) or [type(weight) for weight in weights] != [float] * number:
            raise OvsegError(
                f"{path}: template_weights are no list of numbers for the templates {templates!r}, one of "
                f"{', '.join(f'{name} ({len(forms)})' for name, forms in TEMPLATES.items())}; copy the file again"
            )
        weights = tuple(weights)
    start_block, image_size = values.get("start_block"), values.get("image_size")
    return RegionSettings(values["encoder"], start_block, image_size, log_bias, templates, weights, coverage)


def write_settings(settings: RegionSettings, folder: Path) -> None:
    """Write what the CLIP in a folder is made for; for crops with no more to say there is no file."""
    path = folder / REGION_ENCODER
    if settings == CROPS:
        path.unlink(missing_ok=True)
    else:
        write_json(path, {name: value for name, value in asdict(settings).items() if value != getattr(CROPS, name)})
