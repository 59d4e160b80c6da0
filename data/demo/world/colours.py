"""The colors that captions name, and the patterns on the main parts of things."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 30),
    "yellow": (248, 216, 50),
    "green": (52, 160, 70),
    "blue": (40, 90, 210),
    "purple": (130, 60, 175),
    "pink": (245, 140, 185),
    "brown": (125, 78, 42),
    "black": (35, 35, 38),
    "white": (245, 245, 242),
    "grey": (140, 142, 148),
}
PATTERNS = ("plain", "striped", "spotted", "checked")


def mix(first: Colour, second: Colour, fraction: float) -> Colour:
    """Mix two colors; `fraction` is that of `second`, 0 to 1."""
    r, g, b = (round(a + (c - a) * fraction) for a, c in zip(first, second, strict=True))
    return r, g, b


def shade(name: str, rng: np.random.Generator, spread: int = 22) -> Colour:
    """Return a random shade of the color called `name`; each channel changes by at most `spread`."""
    r, g, b = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in COLOURS[name])
    return r, g, b


def pattern_mask(name: str, side: int, rng: np.random.Generator) -> np.ndarray | None:
    """Return the pixels that have the second color of a pattern: bool `[side, side]`, None for "plain".

    Args:
        name: one of `PATTERNS`.
        side: side in pixels.
        rng: source of the pattern's period and direction.
    """
    if name == "plain":
        return None
    y, x = np.mgrid[0:side, 0:side] / side
    period, turn, phase = rng.uniform(0.09, 0.16), rng.uniform(0, np.pi), rng.uniform(0, 1)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across, along = (u / period + phase) % 1, (v / period + phase) % 1
    if name == "striped":
        return np.asarray(across < 0.4)
    if name == "spotted":
        return np.asarray((across - 0.5) ** 2 + (along - 0.5) ** 2 < 0.09)
    if name == "checked":
        return np.asarray((across < 0.5) ^ (along < 0.5))
    raise ValueError(f"pattern {name!r} is not one of {', '.join(PATTERNS)}")
