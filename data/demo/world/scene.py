"""Compose a scene: a ground of one to three kinds of stuff, things on it, and the mask of what is visible of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from data.demo.world.colours import COLOURS, PATTERNS
from data.demo.world.stuff import texture
from data.demo.world.things import draw_thing

MAX_STUFF = 3
MIN_VISIBLE_FRACTION = 0.25  # fraction of each thing that must stay visible
MIN_VISIBLE_PIXELS = 40
TRIES = 20  # number of random places that are tried for a thing
_PLAIN_FRACTION = 0.65  # fraction of things without a pattern
_SINGLE_SIZE, _SEVERAL_SIZE = (0.4, 0.85), (0.25, 0.55)  # range of sizes, relative to the short side of the frame


@dataclass(frozen=True)
class Segment:
    """The visible part of one thing or one kind of stuff.

    Attributes:
        noun: name in the vocabulary.
        kind: "thing" or "stuff".
        colour: a key of `COLOURS`; None for stuff.
        pattern: one of `PATTERNS`; None for stuff.
        mask: bool `[H, W]`; the masks of a scene are disjoint and cover the frame.
    """

    noun: str
    kind: str
    colour: str | None
    pattern: str | None
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """An image and its segments.

    Attributes:
        image: uint8 `[H, W, 3]`.
        segments: stuff first, then things from back to front.
    """

    image: np.ndarray
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Placed:
    """A thing and its place in the frame.

    Attributes:
        noun, colour, pattern: see `Segment`.
        image: the cropped drawing, RGBA.
        left, top: position of the drawing's upper left corner in the frame in pixels; may be negative.
        pixels: number of pixels of the whole thing, including hidden ones and those outside the frame.
    """

    noun: str
    colour: str
    pattern: str
    image: Image.Image
    left: int
    top: int
    pixels: int


def compose(things: Sequence[str], stuff: Sequence[str], width: int, height: int, rng: np.random.Generator) -> Scene:
    """Draw a random scene.

    Args:
        things: nouns of the things from back to front; a noun may occur twice. Things for which there is no place are left
            out.
        stuff: nouns of one to three different kinds of stuff.
        width, height: size of the frame in pixels.
        rng: source of all variation.
    """
    if not 1 <= len(stuff) <= MAX_STUFF or len(set(stuff)) < len(stuff):
        raise ValueError(f"stuff must be 1 to {MAX_STUFF} different kinds, not {list(stuff)}")
    kinds = sorted(stuff, key=lambda name: name != "sky")
    ground = layout(len(kinds), width, height, rng, level=kinds[0] == "sky")
    canvas = texture(kinds[0], width, height, rng).astype(np.float32)
    for i, name in enumerate(kinds[1:], 1):
        canvas = np.where((ground == i)[..., None], texture(name, width, height, rng), canvas)
    placed, owner = place_things(things, width, height, rng)
    _paint(canvas, placed, rng)
    segments = [Segment(name, "stuff", None, None, (ground == i) & (owner < 0)) for i, name in enumerate(kinds)]
    segments += [Segment(item.noun, "thing", item.colour, item.pattern, owner == i) for i, item in enumerate(placed)]
    return Scene(_develop(canvas, rng), tuple(segment for segment in segments if segment.mask.any()))


def layout(count: int, width: int, height: int, rng: np.random.Generator, level: bool = False) -> np.ndarray:
    """Divide the frame among `count` kinds of stuff.

    Args:
        count: number of kinds, 1 to `MAX_STUFF`.
        width, height: size of the frame in pixels.
        rng: source of all variation.
        level: True puts the first kind at the top, above a horizontal or slightly slanted border.

    Returns:
        int `[height, width]`, 0 to `count` - 1.
    """
    ground = np.zeros((height, width), np.int64)
    if count == 1:
        return ground
    if count == 2:
        ground[_beyond(width, height, _border_turn(rng, level), rng.uniform(-0.35, 0.35), rng)] = 1
        return ground
    kind = rng.choice(("layers", "corner", "path"))
    turn = _border_turn(rng, level or kind == "path")
    if kind == "layers":
        ground[_beyond(width, height, turn, rng.uniform(-0.35, -0.1), rng)] = 1
        ground[_beyond(width, height, turn, rng.uniform(0.1, 0.35), rng)] = 2
        return ground
    position = rng.uniform(-0.35, 0.0)
    ground[_beyond(width, height, turn, position, rng)] = 1
    if kind == "corner":
        aside = math.pi / 2 + rng.choice((-1, 1)) * rng.uniform(0.6, 1.0)
        ground[_beyond(width, height, aside, rng.uniform(0.1, 0.35), rng)] = 2
    else:
        ground[(ground == 1) & _path(width, height, 0.5 + position / 2, rng)] = 2
    return ground


def _border_turn(rng: np.random.Generator, level: bool) -> float:
    """Choose the direction in radians in which a border is crossed; pi / 2 is downwards."""
    choice = rng.random()
    if choice < 0.55 or (level and choice < 0.75):
        return math.pi / 2
    if choice < 0.75:
        return float(rng.choice((0.0, math.pi)))
    reach = 0.3 if level else 1.2
    return math.pi / 2 + float(rng.uniform(-reach, reach))


def _beyond(width: int, height: int, turn: float, position: float, rng: np.random.Generator) -> np.ndarray:
    """Return the pixels beyond a straight or wavy border that is crossed in the direction `turn`: bool `[height, width]`.

    The border lies at the near end of the frame for `position` -1, in the middle for 0, at the far end for 1.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - width / 2, y - height / 2
    cos, sin = math.cos(turn), math.sin(turn)
    reach = (abs(cos) * width + abs(sin) * height) / 2
    across = x * cos + y * sin
    if rng.random() < 0.6:
        along = (y * cos - x * sin) / min(width, height)
        tall = rng.uniform(0.01, 0.06) * min(width, height)
        across = across + tall * np.sin(along * rng.uniform(4, 14) + rng.uniform(0, 6))
        across = across + 0.4 * tall * np.sin(along * rng.uniform(14, 30) + rng.uniform(0, 6))
    return np.asarray(across > position * reach)


def _path(width: int, height: int, top: float, rng: np.random.Generator) -> np.ndarray:
    """Return a path that widens from `top` (fraction of the height) to the lower edge: bool `[height, width]`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    deep = np.clip((y / height - top) / (1 - top), 0, 1)
    start, end = rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.75)
    bend = rng.uniform(-0.12, 0.12) * np.sin(deep * math.pi)
    half = rng.uniform(0.03, 0.08) + (rng.uniform(0.18, 0.3) - 0.05) * deep
    return np.asarray(np.abs(x / width - (start + (end - start) * deep + bend)) < half)


def place_things(
    things: Sequence[str], width: int, height: int, rng: np.random.Generator
) -> tuple[list[Placed], np.ndarray]:
    """Draw and place things, from back to front.

    Args:
        things, width, height, rng: see `compose`.

    Returns:
        the things for which there is a place, and for every pixel the index of the thing that is visible there: int
        `[height, width]`, -1 for none. At least `MIN_VISIBLE_FRACTION` of each thing and `MIN_VISIBLE_PIXELS` are visible.
    """
    low, high = _SINGLE_SIZE if len(things) == 1 else _SEVERAL_SIZE
    placed: list[Placed] = []
    owner = np.full((height, width), -1, np.int64)
    for noun in things:
        size = max(8, round(rng.uniform(low, high) * min(width, height)))
        colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        pattern = "plain" if rng.random() < _PLAIN_FRACTION else PATTERNS[int(rng.integers(1, len(PATTERNS)))]
        image = draw_thing(noun, size, colour, pattern, rng)
        spot = _find_spot(_mask(image), placed, owner, rng)
        if spot is None:
            continue
        left, top = spot
        _claim(owner, _mask(image), left, top, len(placed))
        placed.append(Placed(noun, colour, pattern, image, left, top, int(_mask(image).sum())))
    return placed, owner


def _find_spot(
    mask: np.ndarray, placed: Sequence[Placed], owner: np.ndarray, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Find a place on top of the other things for a thing with this `mask` (bool `[h, w]`): (left, top), or None.

    Three times in four it is the place with the smallest overlap, otherwise a place next to another thing.
    """
    beside = bool(placed) and rng.random() < 0.25
    best, smallest = None, math.inf
    for _ in range(TRIES):
        left, top = _try_spot(mask, placed if beside else (), owner, rng)
        overlap = _overlap(mask, left, top, placed, owner)
        if overlap is None:
            continue
        if overlap <= 0.04 or beside:
            return left, top
        if overlap < smallest:
            best, smallest = (left, top), overlap
    return best


def _try_spot(
    mask: np.ndarray, placed: Sequence[Placed], owner: np.ndarray, rng: np.random.Generator
) -> tuple[int, int]:
    """Choose a random place: next to one of `placed` if there is any, else anywhere, sometimes cut off by the frame."""
    (tall, wide), (height, width) = mask.shape, owner.shape
    if placed:
        other = placed[int(rng.integers(len(placed)))]
        turn, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 0.45)
        x = other.left + other.image.width / 2 + math.cos(turn) * reach * (other.image.width + wide)
        y = other.top + other.image.height / 2 + math.sin(turn) * reach * (other.image.height + tall)
        return round(x - wide / 2), round(y - tall / 2)
    out = 0.3 if rng.random() < 0.12 else 0.0
    x0, x1 = sorted((-out * wide, width - wide + out * wide))
    y0, y1 = sorted((-out * tall, height - tall + out * tall))
    return round(rng.uniform(x0, x1)), round(rng.uniform(y0, y1))


def _overlap(mask: np.ndarray, left: int, top: int, placed: Sequence[Placed], owner: np.ndarray) -> float | None:
    """Return the largest fraction of another thing that the new one would hide; None if too little would stay visible."""
    under, inside = _window(owner, mask, left, top)
    pixels, kept = int(mask.sum()), int(inside.sum())
    if kept < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * pixels):
        return None
    hidden = np.bincount(under[inside] + 1, minlength=len(placed) + 1)[1:]
    visible = np.bincount(owner.ravel() + 1, minlength=len(placed) + 1)[1:]
    worst = 0.0
    for item, lost, before in zip(placed, hidden.tolist(), visible.tolist(), strict=True):
        if before - lost < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * item.pixels):
            return None
        worst = max(worst, lost / item.pixels)
    return worst


def _claim(owner: np.ndarray, mask: np.ndarray, left: int, top: int, number: int) -> None:
    """Assign the pixels under `mask` to the thing `number`."""
    under, inside = _window(owner, mask, left, top)
    under[inside] = number


def _window(frame: np.ndarray, patch: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of `frame` and `patch` that coincide if the patch lies at (left, top), as views, perhaps empty."""
    (height, width), (tall, wide) = frame.shape[:2], patch.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + wide, width), min(top + tall, height)
    x1, y1 = max(x0, x1), max(y0, y1)
    return frame[y0:y1, x0:x1], patch[y0 - top : y1 - top, x0 - left : x1 - left]


def _mask(image: Image.Image) -> np.ndarray:
    """Return the pixels in which a drawing is more than half opaque: bool `[h, w]`."""
    return np.asarray(image.getchannel("A")) > 127


def _paint(canvas: np.ndarray, placed: Sequence[Placed], rng: np.random.Generator) -> None:
    """Paint the things on the canvas (float32 `[H, W, 3]`), either all with a shadow or all without."""
    shadow = rng.random() < 0.45
    depth, reach, turn = rng.uniform(0.2, 0.5), rng.uniform(0.02, 0.08), rng.uniform(0, math.pi)
    for item in placed:
        if shadow:
            distance = reach * max(item.image.size)
            _darken(canvas, item, round(distance * math.cos(turn)), round(distance * math.sin(turn)), depth)
        rgba = np.asarray(item.image, np.float32)
        under, over = _window(canvas, rgba, item.left, item.top)
        under += (over[..., :3] - under) * (over[..., 3:] / 255)


def _darken(canvas: np.ndarray, item: Placed, shift_x: int, shift_y: int, depth: float) -> None:
    """Paint the soft shadow of a thing; `depth` is its darkness, 0 to 1."""
    blur = max(1.0, 0.03 * max(item.image.size))
    edge = math.ceil(3 * blur)
    shape = Image.new("L", (item.image.width + 2 * edge, item.image.height + 2 * edge), 0)
    shape.paste(item.image.getchannel("A"), (edge, edge))
    soft = np.asarray(shape.filter(ImageFilter.GaussianBlur(blur)), np.float32) * np.float32(depth / 255)
    under, over = _window(canvas, soft, item.left + shift_x - edge, item.top + shift_y - edge)
    under *= 1 - over[..., None]


def _develop(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply random light, contrast, color cast, sometimes blur, and noise: uint8 of the same shape."""
    light, contrast = rng.uniform(0.78, 1.15), rng.uniform(0.8, 1.15)
    gain = (light * contrast * (1 + rng.uniform(-0.05, 0.05, 3))).astype(np.float32)
    image = canvas * gain + np.float32(118 * light * (1 - contrast))
    if rng.random() < 0.2:
        soft = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        image = np.asarray(soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9))), np.float32)
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 8))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
