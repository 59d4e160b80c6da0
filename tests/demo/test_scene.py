"""The demo's textures, things and scenes."""

from __future__ import annotations

import numpy as np
import pytest

from data.demo.world.colours import COLOURS, PATTERNS
from data.demo.world.nouns import nouns
from data.demo.world.scene import MIN_VISIBLE_FRACTION, MIN_VISIBLE_PIXELS, Scene, compose, layout, place_things
from data.demo.world.stuff import STUFF, texture
from data.demo.world.things import THINGS, draw_thing

WIDTH, HEIGHT = 144, 128
THING_NOUNS = [noun.name for noun in nouns() if noun.kind == "thing"]
STUFF_NOUNS = [noun.name for noun in nouns() if noun.kind == "stuff"]


def random_scene(seed: int) -> Scene:
    """A scene of up to five things on one to three kinds of stuff."""
    rng = np.random.default_rng(seed)
    things = rng.choice(THING_NOUNS, int(rng.integers(0, 6))).tolist()
    stuff = rng.choice(STUFF_NOUNS, int(rng.integers(1, 4)), replace=False).tolist()
    return compose(things, stuff, WIDTH, HEIGHT, rng)


def test_every_noun_has_its_drawing() -> None:
    assert list(THINGS) == THING_NOUNS
    assert sorted(STUFF) == sorted(STUFF_NOUNS)


@pytest.mark.parametrize("size", [20, 64])
def test_every_thing_fills_its_square_in_every_pattern(size: int) -> None:
    for name in THING_NOUNS:
        for seed, (colour, pattern) in enumerate(zip(COLOURS, PATTERNS, strict=False)):
            image = draw_thing(name, size, colour, pattern, np.random.default_rng(seed))
            alpha = np.asarray(image.getchannel("A"))
            what = f"{name}, {colour}, {pattern}, {size} pixels"
            assert image.mode == "RGBA", what
            assert max(image.size) <= 1.6 * size, what
            assert (alpha > 127).sum() > 0.04 * size * size, what
            assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any(), what


def test_every_texture_fills_the_frame_and_varies() -> None:
    for name in STUFF_NOUNS:
        first, again, other = (texture(name, 100, 70, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert first.shape == (70, 100, 3) and first.dtype == np.uint8, name
        assert np.array_equal(first, again), f"{name}: the same seed gives two textures"
        assert not np.array_equal(first, other), f"{name}: two seeds give the same texture"
        assert first.std() > 2, f"{name} is nearly of one color"


def test_an_unknown_stuff_is_refused() -> None:
    with pytest.raises(ValueError, match="plasma"):
        texture("plasma", 8, 8, np.random.default_rng(0))


def test_masks_are_disjoint_and_cover_the_frame() -> None:
    for seed in range(40):
        scene = random_scene(seed)
        assert scene.image.shape == (HEIGHT, WIDTH, 3) and scene.image.dtype == np.uint8, f"seed {seed}"
        cover = np.zeros((HEIGHT, WIDTH), int)
        for segment in scene.segments:
            what = f"seed {seed}, {segment.noun}"
            assert segment.mask.shape == (HEIGHT, WIDTH) and segment.mask.dtype == bool and segment.mask.any(), what
            assert (segment.colour in COLOURS and segment.pattern in PATTERNS) == (segment.kind == "thing"), what
            assert (segment.colour is None and segment.pattern is None) == (segment.kind == "stuff"), what
            cover += segment.mask
        assert (cover == 1).all(), f"seed {seed}"
        kinds = [segment.kind for segment in scene.segments]
        assert kinds == sorted(kinds), f"seed {seed}: stuff must come before things"


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = random_scene(5), random_scene(5), random_scene(6)
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert [s.noun for s in first.segments] == [s.noun for s in again.segments]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.segments, again.segments, strict=True))


def test_enough_of_every_thing_is_visible_and_some_things_are_occluded() -> None:
    occluded = total = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        placed, owner = place_things(rng.choice(THING_NOUNS, 4).tolist(), WIDTH, HEIGHT, rng)
        for number, item in enumerate(placed):
            visible = int((owner == number).sum())
            assert visible >= MIN_VISIBLE_PIXELS
            assert visible >= MIN_VISIBLE_FRACTION * item.pixels
            occluded += visible < 0.9 * item.pixels
            total += 1
    assert total > 140
    assert 0.05 * total < occluded < 0.5 * total


def test_a_noun_may_occur_twice() -> None:
    scene = compose(["star", "star"], ["grass"], WIDTH, HEIGHT, np.random.default_rng(3))
    assert [segment.noun for segment in scene.segments] == ["grass", "star", "star"]


@pytest.mark.parametrize("stuff", [[], ["grass", "grass"], ["grass", "sand", "sky", "mud"]])
def test_a_ground_needs_one_to_three_different_kinds(stuff: list[str]) -> None:
    with pytest.raises(ValueError, match="stuff"):
        compose([], stuff, WIDTH, HEIGHT, np.random.default_rng(0))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_layout_gives_every_kind_an_area(count: int) -> None:
    for seed in range(60):
        ground = layout(count, WIDTH, HEIGHT, np.random.default_rng(seed))
        fractions = np.bincount(ground.ravel(), minlength=count) / ground.size
        assert len(fractions) == count and fractions.min() > 0.01


def test_the_sky_is_above() -> None:
    for seed in range(20):
        scene = compose([], ["grass", "sky"], WIDTH, HEIGHT, np.random.default_rng(seed))
        sky = next(segment.mask for segment in scene.segments if segment.noun == "sky")
        assert sky[0].mean() > 0.9 and sky[-1].mean() < 0.1
