"""Textures of the demo's 20 kinds of stuff, drawn with numpy and Pillow.

Every function of `_TEXTURES` takes (width, height, rng) and returns float32 `[height, width, 3]` with values of about 0 to
255, which `texture` clips. Lengths are in units of 1/112 of the short side, so a texture looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.demo.world.colours import mix
from data.demo.world.noise import (
    bumps,
    canvas,
    cell_map,
    cloudy,
    grain_of,
    ink_of,
    pick_colour,
    ramp,
    slope_of,
    turned_grid,
    unit_of,
)


def texture(name: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a random texture of the stuff called `name`: uint8 `[height, width, 3]`."""
    if name not in _TEXTURES:
        raise ValueError(f"stuff {name!r} is not one of {', '.join(_TEXTURES)}")
    return np.asarray(np.clip(_TEXTURES[name](width, height, rng), 0, 255), np.uint8)


def _grass(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Upright blades, light and dark, in larger patches."""
    blades = bumps(width, height, 1.3, rng.uniform(5, 9), rng) * 0.7 + bumps(width, height, 2.2, 7, rng) * 0.3
    patches = bumps(width, height, 30, 22, rng)
    low, high = (
        pick_colour(rng, (28, 88, 24), (40, 100, 30)),
        pick_colour(rng, (132, 192, 70), (110, 186, 66), (158, 196, 80)),
    )
    return np.asarray(ramp(low, high, (blades - 0.5) * 1.5 + 0.35 + 0.3 * patches) + grain_of(width, height, 5, rng))


def _water(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Flat ripples with bright crests."""
    _, y = turned_grid(width, height)
    swell = bumps(width, height, 22, 9, rng)
    wave = np.sin(y * np.float32(rng.uniform(0.6, 1.0)) + swell * np.float32(rng.uniform(7, 11)))
    low, high = (
        pick_colour(rng, (14, 70, 130), (12, 96, 132), (24, 84, 160)),
        pick_colour(rng, (70, 160, 205), (84, 184, 200)),
    )
    crest = np.clip((wave - 0.8) * 5, 0, 1) * np.clip(bumps(width, height, 14, 3, rng) * 3 - 1.3, 0, 1)
    return ramp(low, high, wave * 0.35 + 0.15 + 0.5 * swell) + 110 * crest[..., None]


def _brick(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A wall in running bond with light mortar."""
    x, y = turned_grid(width, height)
    tall = rng.uniform(6.5, 10)
    long = tall * rng.uniform(2.0, 2.6)
    row = np.floor(y / tall).astype(np.int32)
    along = x / np.float32(long) + 0.5 * (row % 2)
    column = np.floor(along).astype(np.int32)
    gap = 0.65 / tall + 0.03
    inside = (y / tall % 1 > 1.6 * gap) & (along % 1 > 1.6 * gap * tall / long)
    tones = rng.uniform(-0.5, 0.5, (int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    base = pick_colour(rng, (172, 70, 48), (150, 62, 50), (186, 92, 60))
    wall = base + (tones[row, column] * 60)[..., None] + (bumps(width, height, 2, 2, rng)[..., None] - 0.5) * 26
    mortar = pick_colour(rng, (206, 198, 186), (182, 176, 168))
    return np.asarray(np.where(inside[..., None], wall, mortar) + grain_of(width, height, 4, rng))


def _sand(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Pale grains with faint wind ripples."""
    _, y = turned_grid(width, height, rng.uniform(-0.4, 0.4))
    ripple = np.sin(y * np.float32(rng.uniform(0.45, 0.8)) + bumps(width, height, 34, 18, rng) * 9)
    base = pick_colour(rng, (222, 196, 142), (232, 208, 160), (212, 182, 128))
    light = ripple * np.float32(rng.uniform(6, 15)) + 20 * (bumps(width, height, 30, 30, rng) - 0.5)
    return np.asarray(base + light[..., None] + grain_of(width, height, 9, rng))


def _sky(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Blue, paler towards the horizon, with soft clouds; an evening sky at times."""
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    top, low = (
        pick_colour(rng, (58, 128, 218), (84, 150, 228), (100, 170, 236)),
        pick_colour(rng, (188, 220, 246), (170, 208, 240)),
    )
    if rng.random() < 0.15:
        top, low = pick_colour(rng, (84, 90, 170), (110, 120, 190)), pick_colour(rng, (250, 176, 120), (246, 160, 150))
    cloud = cloudy(width, height, rng.uniform(22, 40), rng, stretch=1.8)
    cover = np.clip((cloud - rng.uniform(0.48, 0.62)) * 5, 0, 0.95)
    return np.asarray(ramp(ramp(top, low, depth), np.full(3, 250, np.float32), cover))


def _wood(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Boards with long grain, lying or standing."""
    if rng.random() < 0.5:
        return _boards(height, width, rng).transpose(1, 0, 2)
    return _boards(width, height, rng)


def _boards(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Lying boards: float32 `[height, width, 3]`."""
    _, y = turned_grid(width, height)
    tall = rng.uniform(15, 26)
    board = np.floor(y / tall).astype(np.int32)
    shift = rng.uniform(0, 40, int(board.max()) + 1).astype(np.float32)[board]
    bend = bumps(width, height, 45, 9, rng)
    rings = np.sin((y + shift) * np.float32(1.1) + bend * 10)
    fine = bumps(width, height, 16, 1.2, rng)
    dark, light = (
        pick_colour(rng, (104, 62, 30), (120, 74, 38), (84, 52, 32)),
        pick_colour(rng, (190, 136, 82), (170, 114, 64)),
    )
    tone = (shift / 40 - 0.5) * 0.3
    fraction = 0.5 + 0.22 * rings + 0.45 * (fine - 0.5) + tone
    return np.asarray(ramp(dark, light, fraction) * np.where(y % tall < 1.2, 0.45, 1)[..., None])


def _snow(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """White lumpy drifts, bluish on the side turned from the light, with a few sparkles."""
    drift = cloudy(width, height, rng.uniform(16, 28), rng, stretch=1.6)
    light = 0.8 + 11 * slope_of(drift) * unit_of(width, height) + 0.8 * (drift - 0.5)
    image = ramp(pick_colour(rng, (176, 192, 220), (188, 198, 220)), np.full(3, 252, np.float32), light)
    sparkle = rng.random((height, width, 1), dtype=np.float32) < 0.012
    return np.asarray(image + grain_of(width, height, 4, rng) - 24 * sparkle)


def _gravel(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Small round pebbles of many grays and browns over dark gaps."""
    near, edge, value = cell_map(width, height, rng.uniform(5.0, 7.0), rng)
    low, high = pick_colour(rng, (112, 104, 98), (120, 114, 112)), pick_colour(rng, (214, 204, 192), (206, 206, 206))
    warm = np.asarray([14, 2, -14], np.float32) * ((value * 7 % 1) - 0.5)[..., None] * 2
    round_light = np.clip(1.15 - 0.55 * near, 0.5, 1.2) * np.clip(0.35 + edge * 4, 0, 1)
    return np.asarray((ramp(low, high, value) + warm) * round_light[..., None] + grain_of(width, height, 4, rng))


def _tile(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Square glazed tiles with straight joints, in one color or as a chessboard."""
    x, y = turned_grid(width, height, float(rng.choice((0.0, 0.0, np.pi / 4))))
    side = np.float32(rng.uniform(13, 20))
    column, row = np.floor(x / side).astype(np.int32), np.floor(y / side).astype(np.int32)
    inner_x, inner_y = x / side - column, y / side - row
    first = pick_colour(rng, (228, 234, 236), (150, 204, 210), (130, 176, 214), (236, 226, 208), (176, 214, 190))
    second = first if rng.random() < 0.5 else pick_colour(rng, (70, 110, 150), (60, 66, 74), (60, 130, 130))
    face = np.where(((row + column) % 2 == 0)[..., None], first, second)
    joint = (inner_x < 0.09) | (inner_y < 0.09)
    gloss = 26 * (0.5 - inner_y) + np.where((inner_x < 0.22) & (inner_y < 0.22), 22, 0)
    grout = pick_colour(rng, (168, 168, 164), (112, 114, 116))
    return np.asarray(np.where(joint[..., None], grout, face + gloss[..., None]) + grain_of(width, height, 2, rng))


def _carpet(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A dark-colored rug: nested lozenges in rows, over a soft pile."""
    x, y = turned_grid(width, height)
    side = np.float32(rng.uniform(18, 28))
    distance = np.abs(x / side % 1 - 0.5) + np.abs(y / (side * np.float32(rng.uniform(0.9, 1.4))) % 1 - 0.5)
    base = pick_colour(rng, (140, 28, 38), (36, 48, 110), (98, 30, 80), (24, 88, 82), (120, 60, 30))
    accent, cream = pick_colour(rng, (206, 150, 54), (190, 92, 60), (60, 90, 140)), pick_colour(rng, (226, 206, 170))
    image = np.where((distance < 0.16)[..., None], cream, base)
    image = np.where(((distance > 0.26) & (distance < 0.36))[..., None], accent, image)
    image = np.where((np.abs(distance - 0.5) < 0.035)[..., None], cream, image)
    weave = 1 - 0.16 * ((np.floor(y * 0.9) % 2) == 0)
    return np.asarray(image * (weave * np.ones_like(x))[..., None] + grain_of(width, height, 12, rng))


def _stone(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A wall of large irregular blocks, rough on the face, with dark joints."""
    _, edge, value = cell_map(width, height, rng.uniform(20, 28), rng, warp=0.35)
    rough = cloudy(width, height, 8, rng)
    low, high = pick_colour(rng, (104, 106, 108), (112, 106, 98)), pick_colour(rng, (176, 176, 174), (178, 168, 152))
    face = ramp(low, high, value * 0.7 + 0.9 * (rough - 0.35))
    return np.asarray(ramp(pick_colour(rng, (52, 50, 48), (66, 62, 56)), face, (edge - 0.03) * 14))


def _asphalt(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Dark, evenly speckled, often with a painted line."""
    base = pick_colour(rng, (66, 67, 70), (78, 78, 80), (58, 60, 66))
    speck = grain_of(width, height, 13, rng) + 14 * (bumps(width, height, 24, 24, rng)[..., None] - 0.5)
    image = np.asarray(base + speck)
    if rng.random() < 0.75:
        x, y = turned_grid(width, height, rng.uniform(-0.5, 0.5) + rng.choice((0.0, np.pi / 2)))
        period = np.float32(rng.uniform(45, 75))
        line = np.abs((y + rng.uniform(0, period)) % period - period / 2) < rng.uniform(1.3, 2.4)
        if rng.random() < 0.6:
            line = line & (x % 26 < 16)
        paint = pick_colour(rng, (226, 226, 220), (226, 226, 220), (232, 190, 60))
        image = np.where(line[..., None], paint + 0.6 * speck, image)
    return image


def _straw(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Many thin stalks, criss-cross about one direction."""
    unit = unit_of(width, height)
    dark, light = pick_colour(rng, (176, 130, 48), (164, 122, 52)), pick_colour(rng, (250, 224, 128), (244, 212, 104))
    image, draw = canvas(width, height, dark)
    count = int(width * height / (unit * unit) / 9)
    turn = rng.uniform(0, np.pi) + rng.normal(0, 0.5, count)
    reach = rng.uniform(8, 20, count) * unit
    x, y = rng.uniform(0, width, count), rng.uniform(0, height, count)
    step_x, step_y = np.cos(turn) * reach / 2, np.sin(turn) * reach / 2
    ends = np.stack([x - step_x, y - step_y, x + step_x, y + step_y], axis=1).tolist()
    inks = np.clip(dark + (light - dark) * rng.uniform(-0.25, 1.1, (count, 1)), 0, 255).astype(int).tolist()
    thick = max(1, round(1.3 * unit))
    for end, ink in zip(ends, inks, strict=True):
        draw.line(end, fill=tuple(ink), width=thick)
    return np.asarray(image, np.float32)


def _lava(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A black crust with glowing cracks."""
    _, edge, value = cell_map(width, height, rng.uniform(16, 26), rng, warp=0.9)
    heat = np.clip(1 - edge * rng.uniform(2.6, 4.0), 0, 1) ** 1.5 + 0.35 * (cloudy(width, height, 30, rng) - 0.45)
    crust = pick_colour(rng, (38, 24, 22), (46, 30, 28)) + (value * 24)[..., None]
    glow = ramp(crust, pick_colour(rng, (226, 60, 12), (236, 76, 10)), heat * 2.0)
    return np.asarray(ramp(glow, pick_colour(rng, (255, 214, 70)), heat * 2.6 - 1.4) + grain_of(width, height, 4, rng))


def _metal(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Brushed plates with a diagonal sheen, seams and rivets."""
    x, y = turned_grid(width, height)
    brushed = bumps(width, height, 60, 1, rng) - 0.5
    sheen = np.sin((x + y * 0.6) * np.float32(rng.uniform(0.06, 0.1)) + np.float32(rng.uniform(0, 6)))
    base = pick_colour(rng, (150, 158, 168), (168, 172, 176), (132, 144, 158))
    light = 34 * brushed + 30 * sheen
    side = np.float32(rng.uniform(30, 44))
    inner_x, inner_y = x % side, y % side
    seam = np.where((inner_x < 1.3) | (inner_y < 1.3), -70.0, 0.0)
    rivet_x, rivet_y = (inner_x - 5) % (side - 9) - 1, (inner_y - 5) % (side - 9) - 1
    at = np.hypot(rivet_x - 1, rivet_y - 1)
    rivet = np.where(at < 2.3, 44 - 36 * at, 0)
    return np.asarray(base + (light + seam + rivet)[..., None], np.float32)


def _marble(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Polished white, cream or black with thin wandering veins."""
    x, y = turned_grid(width, height, rng.uniform(0, np.pi))
    bend = cloudy(width, height, 38, rng)
    wide = np.abs(np.sin((x + 0.3 * y) * np.float32(rng.uniform(0.045, 0.075)) + bend * 6))
    thin = np.abs(np.sin((y - 0.9 * x) * np.float32(0.06) + cloudy(width, height, 26, rng) * 7))
    base, vein = pick_colour(rng, (240, 238, 234), (236, 228, 216)), pick_colour(rng, (112, 116, 124), (128, 108, 92))
    if rng.random() < 0.2:
        base, vein = pick_colour(rng, (36, 40, 44), (26, 54, 46)), pick_colour(rng, (214, 210, 200))
    fraction = np.clip(1 - wide * 6, 0, 1) * 0.8 + np.clip(1 - thin * 6, 0, 1) * 0.5 + 0.25 * np.clip(1 - wide, 0, 1)
    return ramp(base, vein, fraction)


def _fence(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Pales on two rails before a lawn, or wire netting."""
    behind = ramp(
        pick_colour(rng, (70, 120, 60), (60, 104, 62)), pick_colour(rng, (120, 160, 96)), cloudy(width, height, 20, rng)
    )
    if rng.random() < 0.25:
        return _netting(width, height, behind, rng)
    x, y = turned_grid(width, height)
    period = np.float32(rng.uniform(10, 14))
    inner = x % period / period
    half = rng.uniform(0.29, 0.36)
    storey = np.float32(rng.uniform(46, 60))
    deep = (y + rng.uniform(0, storey)) % storey
    tip = np.clip((half - np.abs(inner - 0.5)) * period, 0, None)
    pale = (np.abs(inner - 0.5) < half) & (deep > 9 - tip * 1.6) & (deep < storey - 3)
    rail = (np.abs(deep - 0.32 * storey) < 2.6) | (np.abs(deep - 0.75 * storey) < 2.6)
    paint = pick_colour(rng, (240, 240, 236), (240, 240, 236), (166, 116, 70), (132, 92, 60))
    light = 1 - 0.25 * np.clip((inner - 0.5) / half, -1, 1) ** 2 - 0.12 * bumps(width, height, 2, 20, rng)
    image = np.where(rail[..., None], paint * np.float32(0.72), behind)
    return np.where(pale[..., None], paint * light[..., None], image)


def _netting(width: int, height: int, behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wire netting over `behind`: float32 `[height, width, 3]`."""
    x, y = turned_grid(width, height)
    side = np.float32(rng.uniform(9, 13))
    first, second = (x + y) % side, (x - y) % side
    wire = (first < 1.9) | (second < 1.9)
    post = x % 62 < 4
    steel = pick_colour(rng, (206, 210, 214), (190, 194, 198))
    return np.where(post[..., None], steel * np.float32(0.75), np.where(wire[..., None], steel, behind))


_IVY_LEAF = np.asarray([(0, -1), (0.3, -0.35), (0.95, -0.3), (0.5, 0.25), (0.55, 0.8), (0, 0.55)], np.float32)
_IVY_LEAF = np.concatenate([_IVY_LEAF, _IVY_LEAF[4:0:-1] * np.asarray([-1, 1], np.float32)])


def _ivy(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Lobed leaves over one another, dark to bright green."""
    unit = unit_of(width, height)
    dark, light = (
        pick_colour(rng, (14, 52, 30), (20, 60, 26)),
        pick_colour(rng, (70, 150, 66), (92, 158, 62), (56, 136, 84)),
    )
    image, draw = canvas(width, height, dark * np.float32(0.85))
    size = rng.uniform(5.5, 7.5)
    count = int(width * height / (unit * size) ** 2 / 0.7)
    turn, reach = rng.normal(np.pi, 0.6, count), unit * size * rng.uniform(0.75, 1.2, count)
    cos, sin = np.cos(turn) * reach, np.sin(turn) * reach
    x = rng.uniform(0, width, (count, 1)) + np.outer(cos, _IVY_LEAF[:, 0]) - np.outer(sin, _IVY_LEAF[:, 1])
    y = rng.uniform(0, height, (count, 1)) + np.outer(sin, _IVY_LEAF[:, 0]) + np.outer(cos, _IVY_LEAF[:, 1])
    outlines = np.stack([x, y], axis=2).reshape(count, -1).tolist()
    shares = np.clip(np.linspace(0.1, 0.85, count) + rng.normal(0, 0.18, count), 0, 1)[:, None]
    inks = np.clip(dark + (light - dark) * shares, 0, 255).astype(int).tolist()
    edge = mix(ink_of(dark), (0, 0, 0), 0.25)
    for outline, ink in zip(outlines, inks, strict=True):
        draw.polygon(outline, fill=tuple(ink), outline=edge)
    return np.asarray(image, np.float32)


def _mud(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Wet brown lumps lit from one side, with dull puddles."""
    lumps = cloudy(width, height, rng.uniform(11, 18), rng, stretch=1.3)
    slope = slope_of(lumps) * np.float32(unit_of(width, height))
    base = pick_colour(rng, (92, 62, 38), (78, 54, 36), (104, 72, 44))
    image = base * np.clip(0.75 + lumps[..., None] * 0.5, 0, 2) + np.clip(slope * 420, -38, 70)[..., None]
    puddle = np.clip((0.3 - lumps) * 14, 0, 0.8)
    return ramp(np.asarray(image), pick_colour(rng, (128, 116, 104), (112, 104, 98)), puddle)


def _wallpaper(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Pale stripes with a small motif repeated in staggered rows."""
    x, y = turned_grid(width, height)
    base = pick_colour(rng, (240, 216, 210), (222, 232, 208), (214, 222, 240), (244, 232, 196), (226, 210, 234))
    ink = pick_colour(rng, (196, 90, 110), (84, 128, 96), (92, 108, 170), (190, 140, 60))
    side = np.float32(rng.uniform(15, 21))
    stripe = np.float32(1 - rng.uniform(0.06, 0.12)) ** (x // side % 2)
    image = base * (stripe * np.ones_like(y))[..., None]
    column = x // side
    inner_x, inner_y = x / side % 1 - 0.5, (y / side + 0.5 * (column % 2)) % 1 - 0.5
    angle, reach = np.arctan2(inner_y, inner_x), np.hypot(inner_x, inner_y)
    petals = int(rng.integers(4, 7))
    motif = reach < 0.2 + 0.09 * np.cos(petals * angle)
    image = np.where(motif[..., None], ink, image)
    return np.asarray(np.where((reach < 0.07)[..., None], base, image) + grain_of(width, height, 1.5, rng))


_TEXTURES: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "grass": _grass,
    "water": _water,
    "brick": _brick,
    "sand": _sand,
    "sky": _sky,
    "wood": _wood,
    "snow": _snow,
    "gravel": _gravel,
    "tile": _tile,
    "carpet": _carpet,
    "stone": _stone,
    "asphalt": _asphalt,
    "straw": _straw,
    "lava": _lava,
    "metal": _metal,
    "marble": _marble,
    "fence": _fence,
    "ivy": _ivy,
    "mud": _mud,
    "wallpaper": _wallpaper,
}
STUFF = tuple(_TEXTURES)
