"""Building blocks of textures: smooth and fine noise, cells, slopes and color ramps; float32, colors about 0 to 255."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from data.demo.world.colours import Colour

REFERENCE_SIDE = 112


def unit_of(width: int, height: int) -> float:
    """Return the number of pixels in a unit of length."""
    return max(0.6, min(width, height) / REFERENCE_SIDE)


def turned_grid(width: int, height: int, turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in units, turned by `turn` radians: (along, across), float32 `[height, width]` each."""
    unit = unit_of(width, height)
    x = np.arange(width, dtype=np.float32)[None, :] / unit
    y = np.arange(height, dtype=np.float32)[:, None] / unit
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return x * cos + y * sin, y * cos - x * sin


def bumps(width: int, height: int, cell_x: float, cell_y: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise with bumps of about `cell_x` by `cell_y` units: float32 `[height, width]`, about 0 to 1."""
    unit = unit_of(width, height)
    columns = max(2, round(width / (cell_x * unit)) + 1)
    rows = max(2, round(height / (cell_y * unit)) + 1)
    small = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def cloudy(width: int, height: int, cell: float, rng: np.random.Generator, stretch: float = 1.0) -> np.ndarray:
    """Return three octaves of smooth noise, the widest of `cell` units: float32 `[height, width]`, about 0 to 1."""
    parts = [
        bumps(width, height, max(cell * stretch / 2**i, 1), max(cell / 2**i, 1), rng) * (0.55, 0.29, 0.16)[i]
        for i in range(3)
    ]
    return np.asarray(parts[0] + parts[1] + parts[2])


def grain_of(width: int, height: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return gray noise that is independent for each pixel: float32 `[height, width, 1]` with standard deviation `strength`."""
    return np.asarray(rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(strength))


def slope_of(relief: np.ndarray) -> np.ndarray:
    """Return how much `relief` (`[height, width]`) rises per pixel towards the lower right corner, in the same shape."""
    slope = np.zeros_like(relief)
    slope[1:, 1:] = relief[1:, 1:] - relief[:-1, :-1]
    return slope


def pick_colour(rng: np.random.Generator, *colours: Colour) -> np.ndarray:
    """Choose one of `colours`, its lightness changed by at most 10 and each channel by at most 4 more: float32 `[3]`."""
    chosen = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    return chosen + np.float32(rng.uniform(-10, 10)) + rng.uniform(-4, 4, 3).astype(np.float32)


def ramp(low: np.ndarray, high: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Mix two colors: `low` where `fraction` (`[height, width]`) is 0, `high` where it is 1: float32 `[height, width, 3]`."""
    return np.asarray(low + (high - low) * np.clip(fraction, 0, 1)[..., None], np.float32)


def cell_map(
    width: int, height: int, size: float, rng: np.random.Generator, warp: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Voronoi cells of about `size` units.

    Returns:
        distance to the seed of the cell and distance to the next cell, both relative to the size of a cell, and a random
        value in [0, 1] for each cell; each float32 `[height, width]`.
    """
    x, y = (a / np.float32(size) + 1 for a in turned_grid(width, height))
    x, y = np.broadcast_to(x, (height, width)), np.broadcast_to(y, (height, width))
    if warp:
        x = x + (bumps(width, height, size, size, rng) - 0.5) * np.float32(warp)
    x, y = np.maximum(x, 1), np.maximum(y, 1)
    column, row = x.astype(np.int32), y.astype(np.int32)
    columns = int(column.max()) + 2
    seeds = rng.uniform(0.1, 0.9, (2, (int(row.max()) + 2) * columns)).astype(np.float32)
    values = rng.random((seeds.shape[1],), dtype=np.float32)
    inner_x, inner_y, here = x - column, y - row, row * columns + column
    near, far = np.full((height, width), 9, np.float32), np.full((height, width), 9, np.float32)
    owner = here
    for shift_y in (-1, 0, 1):
        for shift_x in (-1, 0, 1):
            at = here + (shift_y * columns + shift_x)
            distance = (seeds[0][at] + shift_x - inner_x) ** 2 + (seeds[1][at] + shift_y - inner_y) ** 2
            far = np.minimum(far, np.maximum(near, distance))
            owner = np.where(distance < near, at, owner)
            near = np.minimum(near, distance)
    return np.sqrt(near), np.sqrt(far) - np.sqrt(near), values[owner]


def canvas(width: int, height: int, fill: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an image of one color and Pillow's object to draw on it."""
    image = Image.new("RGB", (width, height), ink_of(fill))
    return image, ImageDraw.Draw(image)


def ink_of(colour: np.ndarray) -> Colour:
    """Convert a color to Pillow's format."""
    r, g, b = (int(c) for c in np.clip(colour, 0, 255))
    return r, g, b
