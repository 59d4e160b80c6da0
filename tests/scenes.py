"""Drawn scenes of the demo's world, as images that differ like photographs do."""

from __future__ import annotations

import numpy as np

from data.demo.world.nouns import nouns
from data.demo.world.scene import compose
from ovseg.core.images import ImageArray

WIDTH, HEIGHT = 160, 128


def scene(seed: int) -> ImageArray:
    """A scene of two things on one or two kinds of stuff, uint8 `[128, 160, 3]`."""
    rng = np.random.default_rng(seed)
    things, stuff = ([noun.name for noun in nouns() if noun.kind == kind] for kind in ("thing", "stuff"))
    chosen = rng.choice(things, 2, replace=False).tolist(), rng.choice(stuff, 1 + seed % 2, replace=False).tolist()
    return compose(*chosen, WIDTH, HEIGHT, rng).image
