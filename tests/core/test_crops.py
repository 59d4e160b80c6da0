"""The crop recipe, against a formula that uses none of its code."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.core import crops, masks
from ovseg.core.images import ImageArray
from ovseg.core.options import Fill
from ovseg.mining.shards import CLIP_MEAN

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RNG = np.random.default_rng(0)
IMAGE: ImageArray = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def blob(x: int = 7, y: int = 5, width: int = 31, height: int = 20) -> masks.MaskArray:
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[y : y + height, x : x + width] = RNG.random((height, width)) > 0.3
    mask[y, x] = mask[y + height - 1, x + width - 1] = True
    return mask


def cubic(distance: float, a: float) -> float:
    """Keys' kernel."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def weights(source: int, target: int, antialias: bool) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rows of bicubic weights along one side: wider kernels (a = -0.5) against aliasing, four taps (a = -0.75) without."""
    scale = source / target
    rows = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * scale - 0.5
        if antialias:
            reach = max(scale, 1.0)
            for j in range(source):
                rows[i, j] = cubic((j - centre) / reach, -0.5)
            rows[i] /= rows[i].sum()
        else:
            first = int(np.floor(centre)) - 1
            for j in range(first, first + 4):
                rows[i, min(max(j, 0), source - 1)] += cubic(j - centre, -0.75)
    return rows


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [8, 32, 45])
@pytest.mark.parametrize("fill", ["mean", "zero", "keep"])
def test_a_region_is_the_formula(fill: Fill, size: int, antialias: bool) -> None:
    """Tight box, background of one color, bicubic to a square, nearest for the mask, up to two roundings."""
    mask = blob()
    box = masks.box(masks.encode(mask), *mask.shape)
    x, y, w, h = box
    color = {"mean": np.array([123, 117, 104]), "zero": np.zeros(3), "keep": None}[fill]
    part, inside = IMAGE[y : y + h, x : x + w].astype(float), mask[y : y + h, x : x + w]
    filled = part if color is None else np.where(inside[..., None], part, color)
    across = np.einsum("jw,hwc->hjc", weights(w, size, antialias), filled).round().clip(0, 255)
    expected = np.einsum("ih,hjc->cij", weights(h, size, antialias), across)
    pixels, kept = crops.crop_region(IMAGE, mask, box, size, crops.fill_color(fill, CLIP_MEAN), antialias)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, size, size)
    off = np.abs(pixels.numpy() - expected.clip(0, 255))
    assert off.max() < 2 and off.mean() < 0.4
    rows, columns = (np.arange(size) * side // size for side in (h, w))
    assert kept.dtype == torch.bool and np.array_equal(kept.numpy(), inside[np.ix_(rows, columns)])


@pytest.mark.parametrize("antialias", [True, False])
def test_a_full_mask_is_a_plain_resize(antialias: bool) -> None:
    """With every pixel in the mask the crop is the resized image, whatever the fill."""
    full = np.ones(IMAGE.shape[:2], bool)
    box = (0, 0, IMAGE.shape[1], IMAGE.shape[0])
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(IMAGE).permute(2, 0, 1)[None], (32, 32), mode="bicubic", antialias=antialias
    )[0]
    for fill in ("mean", "zero", "keep"):
        pixels, inside = crops.crop_region(IMAGE, full, box, 32, crops.fill_color(fill, CLIP_MEAN), antialias)
        assert torch.equal(pixels, plain) and inside.all()


def test_the_single_steps_give_the_same_crop_as_crop_region() -> None:
    """Shards and loaders, which call the single steps, get the same crop as mining."""
    mask = blob()
    box = masks.box(masks.encode(mask), *mask.shape)
    for fill in ("mean", "zero", "keep"):
        color = crops.fill_color(fill, CLIP_MEAN)
        part, inside = crops.crop_to_box(IMAGE, mask, box)
        step = crops.resize(crops.fill_background(part, inside, color), inside, 32, True)
        whole = crops.crop_region(IMAGE, mask, box, 32, color, True)
        assert torch.equal(step[0], whole[0]) and torch.equal(step[1], whole[1])


def test_threads_that_crop_limit_torch_in_themselves_alone() -> None:
    """A thread that uses torch for the first time afterwards, such as one of a server, has the number that was set."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with crops.crop_threads(1) as pool, ThreadPoolExecutor(1) as other:
            assert pool.submit(torch.get_num_threads).result() == 1
            assert other.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
            assert pool.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)


def test_fill_colors() -> None:
    """ "mean" is OpenAI's mean in whole gray levels, "zero" is black, "keep" leaves the image unchanged."""
    mean, zero = crops.fill_color("mean", CLIP_MEAN), crops.fill_color("zero", CLIP_MEAN)
    assert mean is not None and mean.tolist() == [123, 117, 104]
    assert zero is not None and zero.tolist() == [0, 0, 0]
    assert crops.fill_color("keep", CLIP_MEAN) is None
    nothing = np.zeros(IMAGE.shape[:2], bool)
    assert crops.fill_background(IMAGE, nothing, None) is IMAGE
    assert (crops.fill_background(IMAGE, nothing, mean) == mean).all()


def normalized(pixels: Tensor) -> Tensor:
    return crops.normalize(pixels, torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD))


def test_the_mean_fill_is_zero_after_normalization() -> None:
    """Up to half a gray level."""
    color = crops.fill_color("mean", CLIP_MEAN)
    assert color is not None
    blank = torch.from_numpy(np.broadcast_to(color[:, None, None], (3, 4, 4)).copy())[None]
    half = 0.5 / 255 / torch.tensor(CLIP_STD)
    assert (normalized(blank).abs() <= half[:, None, None] * 1.001).all()


def test_normalising_is_the_formula() -> None:
    pixels = torch.from_numpy(IMAGE[:32, :32].copy()).permute(2, 0, 1)[None]
    expected = (pixels.double() / 255 - torch.tensor(CLIP_MEAN).double()[:, None, None]) / torch.tensor(
        CLIP_STD
    ).double()[:, None, None]
    assert torch.allclose(normalized(pixels).double(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 500)])
def test_any_shape_fits(shape: tuple[int, int]) -> None:
    """A single pixel and boxes of one row or column become a square."""
    crop = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels, inside = crops.resize(crop, np.ones(shape, bool), 32, True)
    assert pixels.shape == (3, 32, 32) and inside.shape == (32, 32) and inside.all()
    if shape == (1, 1):
        assert (pixels == torch.from_numpy(crop[0, 0])[:, None, None]).all()


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.1])
def test_a_random_crop_is_one_rectangle_of_crop_and_mask_with_about_the_requested_area(scale: float) -> None:
    """The values of the pixels are their positions; the aspect ratio changes by a third at most."""
    height, width = 60, 45
    y, x = np.mgrid[:height, :width]
    crop = np.stack([y, x, (y + x) % 2], axis=-1).astype(np.uint8)
    fractions = []
    for seed in range(200):
        part, inside = crops.random_crop(crop, (y + x) % 2 == 1, scale, np.random.default_rng(seed))
        assert part.shape[:2] == inside.shape
        assert np.array_equal(part[..., 2] == 1, inside)
        assert np.array_equal(
            part[..., 0], np.broadcast_to(part[:1, :1, 0] + np.arange(len(part))[:, None], inside.shape)
        )
        fractions.append(inside.size / (height * width))
        if scale == 0.5:
            assert 0.7 < (inside.shape[0] / height) / (inside.shape[1] / width) < 1.45
    assert min(fractions) > scale * 0.7  # sides are clipped to those of the crop and rounded to pixels
    assert max(fractions) <= 1
    assert np.std(fractions) > 0


def test_a_random_crop_never_loses_the_foreground() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0, 0] = True
    for seed in range(50):
        assert crops.random_crop(np.zeros((40, 40, 3), np.uint8), mask, 0.3, np.random.default_rng(seed))[1].any()
