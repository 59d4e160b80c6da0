"""The CLIP that scores."""

from __future__ import annotations

from dataclasses import asdict, fields

from ovseg.clip.adapted import load_named
from ovseg.clip.load import Clip
from ovseg.clip.pretrained import locate
from ovseg.clip.pseudo_text import PSEUDO_TEXT
from ovseg.clip.region_settings import CROPS, RegionSettings
from ovseg.clip.regions import with_regions
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, ScoreOptions


def check_scorer(clip: ClipOptions) -> None:
    """Check that a CLIP can score, without loading it.

    Raises:
        OvsegError: it cannot be found, see `locate`, or it has pseudo-texts.
    """
    folder = locate(clip.model, clip.pretrained).folder
    if folder is not None and (folder / PSEUDO_TEXT).is_file():
        raise OvsegError(
            f"{clip.model} has pseudo-texts ({PSEUDO_TEXT}), by which a noun means something else in each image, and mining "
            "compares embeddings across images; score with another CLIP, or train this one with finetune.psm=linear"
        )


def load_scorer(clip: ClipOptions, options: ScoreOptions, device: str) -> Clip:
    """Load the CLIP that scores, with the region encoder that `options` name; without one, with its own.

    Raises:
        OvsegError: the CLIP cannot have that encoder, or is made for another one, or has pseudo-texts.
    """
    check_scorer(clip)
    loaded = load_named(clip.model, clip.pretrained, device, options.precision)
    settings = RegionSettings(options.encoder, options.start_block, options.image_size, coverage=options.coverage)
    if settings == CROPS:
        return loaded
    if loaded.regions.encoder == "crops":
        return with_regions(loaded, settings, "score")
    own = asdict(loaded.regions)
    for field in fields(settings):
        asked = getattr(settings, field.name)
        if asked not in (own[field.name], field.default):
            raise OvsegError(
                f"score.{field.name}={asked}, but {clip.model} is made for {field.name}={own[field.name]}, and scores with "
                "that; leave encoder, start_block, coverage and image_size of score at their defaults, or take another CLIP"
            )
    return loaded
