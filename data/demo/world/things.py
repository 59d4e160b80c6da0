"""The drawing functions of all things by noun, and the drawing of one thing with its color, pattern and rotation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from data.demo.world import (
    things_animals,
    things_food,
    things_furniture,
    things_kitchen,
    things_objects,
    things_plants,
    things_sky,
    things_town,
)
from data.demo.world.colours import COLOURS, Colour, pattern_mask, shade
from data.demo.world.nouns import nouns
from data.demo.world.pen import SUPERSAMPLE, Pen

_MODULES = (
    things_animals,
    things_food,
    things_furniture,
    things_kitchen,
    things_objects,
    things_plants,
    things_sky,
    things_town,
)
MAX_TURN = 25.0  # degrees
MAX_STRETCH = 0.15  # largest change of the aspect ratio
_MIRRORED_FRACTION = 0.3
_CONTRAST = 150.0  # least distance in RGB between the colors of a thing and its pattern


def _gather() -> dict[str, Callable[[Pen], None]]:
    """Map each noun to its function, whose name is the noun with "_" for " ", in the order of the vocabulary."""
    functions: dict[str, Callable[[Pen], None]] = {}
    for module in _MODULES:
        own = vars(module).items()
        functions |= {key: value for key, value in own if getattr(value, "__module__", "") == module.__name__}
    return {noun.name: functions[noun.name.replace(" ", "_")] for noun in nouns() if noun.kind == "thing"}


THINGS = _gather()


def draw_thing(name: str, size: int, colour: str, pattern: str, rng: np.random.Generator) -> Image.Image:
    """Draw one thing.

    Args:
        name: key of `THINGS`.
        size: side in pixels of the square that it is drawn in, before it is rotated and stretched.
        colour: key of `COLOURS`; the main parts have a shade of it.
        pattern: one of `PATTERNS`.
        rng: source of all variation.

    Returns:
        RGBA image, cropped to the pixels that are not transparent, at least 1 x 1.
    """
    main = shade(colour, rng)
    pen = Pen(rng, size, main, shade(_another(colour, main, 0.6 * _CONTRAST, rng), rng))
    THINGS[name](pen)
    over = shade(_another(colour, main, _CONTRAST, rng), rng)
    flat = pen.image(pattern_mask(pattern, size * SUPERSAMPLE, rng), over)
    turned = _turn(flat, rng)
    return turned.crop(turned.getchannel("A").getbbox() or (0, 0, 1, 1))


def _another(colour: str, main: Colour, distance: float, rng: np.random.Generator) -> str:
    """Choose a color other than `colour` with a distance in RGB (0 to 441) of at least `distance` from `main`."""
    names = [name for name in COLOURS if name != colour and math.dist(COLOURS[name], main) >= distance]
    return names[int(rng.integers(len(names)))]


def _turn(flat: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Stretch, rotate and sometimes mirror a drawing with one resampling, on a canvas that is large enough for the result."""
    angle = math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    wide = rng.uniform(1 - MAX_STRETCH, 1 + MAX_STRETCH) ** 0.5
    mirror = -1 if rng.random() < _MIRRORED_FRACTION else 1
    cos, sin = math.cos(angle), math.sin(angle)
    half_x, half_y = flat.width / 2, flat.height / 2
    reach_x = wide * half_x * cos + half_y / wide * abs(sin)
    reach_y = wide * half_x * abs(sin) + half_y / wide * cos
    a, b = mirror * cos / wide, mirror * sin / wide
    d, e = -sin * wide, cos * wide
    size = (math.ceil(2 * reach_x) + 2, math.ceil(2 * reach_y) + 2)
    x, y = size[0] / 2, size[1] / 2
    back = (a, b, half_x - a * x - b * y, d, e, half_y - d * x - e * y)
    return flat.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
