"""Region encoders behind one signature, and the file that says which one a CLIP is made for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg.clip.adapted import load_adapted, materialise, save_adapted
from ovseg.clip.export import export_clip
from ovseg.clip.load import Clip
from ovseg.clip.mask_adapter import ADAPTER, MaskAdapter, adapted_regions, new_adapter, write_adapter
from ovseg.clip.pooled_regions import pooled_regions
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import REGION_ENCODER, RegionSettings, read_settings
from ovseg.clip.region_tokens import mean_of_cells, region_tokens
from ovseg.clip.regions import encode_regions, masks_on_grid, whole_image, with_regions
from ovseg.clip.save import model_config
from ovseg.core import crops, masks
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.masks import MaskArray
from ovseg.core.tensor_files import write_tensors
from tests.towers import save

TOKENS = RegionSettings("region_tokens", start_block=1, image_size=48)
SETTINGS = {
    "crops": ("scale as a vector", RegionSettings()),
    "region_tokens": ("scale as a vector", TOKENS),
    "region_tokens with soft coverage": ("scale as a vector", RegionSettings("region_tokens", 1, 48, coverage="soft")),
    "region_tokens of SigLIP": ("siglip", RegionSettings("region_tokens", image_size=112)),
    "region_tokens of CoCa": ("native attention", RegionSettings("region_tokens", 1)),
    "biased_tokens": ("scale as a vector", RegionSettings("biased_tokens", 1, log_bias=((-1.0, -2.0),))),
    "pooled": ("convnext", RegionSettings("pooled", image_size=96)),
    "mask_adapter": ("scale as a vector", RegionSettings("mask_adapter", image_size=48)),
    "mask_adapter of a ConvNeXt": ("convnext", RegionSettings("mask_adapter", image_size=96)),
}


def _clip(tower: str, folder: Path) -> Clip:
    return load_adapted(save(tower, folder))


def _made_for(name: str, folder: Path) -> Clip:
    tower, settings = SETTINGS[name]
    clip = _clip(tower, folder)
    if settings.encoder == "mask_adapter":
        clip = replace(clip, adapter=new_adapter(clip.width, 24, seed=0).requires_grad_(False))
    return with_regions(clip, settings)


def _image(number: int = 4) -> tuple[ImageArray, MaskArray]:
    """An image of noise, with rectangles from the whole image down to a few pixels."""
    rng = np.random.default_rng(0)
    regions = np.zeros((number, 60, 80), bool)
    for i, region in enumerate(regions):
        region[i : 60 >> i, i : 80 >> i] = True
    return rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), regions


@pytest.mark.parametrize("name", SETTINGS)
def test_a_region_has_a_unit_vector_that_no_other_region_changes(name: str, tmp_path: Path) -> None:
    clip = _made_for(name, tmp_path)
    pixels, regions = _image()
    vectors = encode_regions(clip, pixels, regions)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    for i in range(4):
        torch.testing.assert_close(encode_regions(clip, pixels, regions[i : i + 1])[0], vectors[i], atol=1e-5, rtol=0)
    assert encode_regions(clip, pixels, regions[:0]).shape == (0, clip.width)
    empty = encode_regions(clip, pixels, np.zeros((1, 60, 80), bool))
    assert empty.isfinite().all()


def test_crops_are_the_crop_recipe(tmp_path: Path) -> None:
    clip = _clip("scale as a vector", tmp_path)
    pixels, regions = _image()
    color = crops.fill_color("zero", clip.mean.tolist())
    cut = [
        crops.crop_region(pixels, mask, masks.box(masks.encode(mask), 60, 80), clip.size, color, False)[0]
        for mask in regions
    ]
    vectors = encode_regions(clip, pixels, regions, fill="zero", antialias=False)
    assert torch.equal(vectors, clip.encode_crops(torch.stack(cut)))


def test_one_pass_sees_the_squashed_image_and_the_coverage_of_patches(tmp_path: Path) -> None:
    clip = _made_for("region_tokens", tmp_path)
    pixels, regions = _image()
    image, on_grid = whole_image(clip, pixels), masks_on_grid(clip, regions)
    assert image.shape == (3, 48, 48)
    assert on_grid.shape == (4, 6, 6)
    torch.testing.assert_close(on_grid.mean((1, 2)), torch.from_numpy(regions).float().mean((1, 2)), atol=0.02, rtol=0)
    normalized = crops.normalize(image[None], clip.mean, clip.std)
    wanted = region_tokens(clip.model.visual, normalized, on_grid[None], 1)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(encode_regions(clip, pixels, regions), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "grid"), [((48, 64), (6, 8)), ((427, 640), (30, 30)), ((7, 5), (7, 5)), ((3, 10), (4, 3))]
)
def test_the_coverage_of_cells_is_the_mean_of_their_windows_in_bf16_too(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """Exactly, for binary masks: half a cell is 0.5, which decides whether a region sees the patch."""
    region_masks = torch.rand(1, 5, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_of_cells(region_masks, grid)
    assert found.dtype == torch.float32
    for row, column in np.ndindex(grid):
        window = [
            slice(cell * side // cells, -(-(cell + 1) * side // cells))
            for cell, side, cells in zip((row, column), size, grid, strict=True)
        ]
        values = region_masks[0, :, window[0], window[1]].flatten(1)
        assert torch.equal(found[0, :, row, column], values.sum(1) / values.shape[1])


def test_pooled_uses_the_grid_of_the_last_map(tmp_path: Path) -> None:
    clip = _made_for("pooled", tmp_path)
    pixels, regions = _image()
    normalized = crops.normalize(whole_image(clip, pixels)[None], clip.mean, clip.std)
    on_grid = masks_on_grid(clip, regions)
    assert on_grid.shape == (4, 3, 3)
    wanted = F.normalize(pooled_regions(clip.model.visual, normalized, on_grid[None])[0], dim=-1)  # type: ignore[arg-type]
    torch.testing.assert_close(encode_regions(clip, pixels, regions), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "cells"), [("mask_adapter", 24), ("mask_adapter of a ConvNeXt", 12)])
def test_a_mask_adapter_sees_masks_of_four_times_the_last_map(name: str, cells: int, tmp_path: Path) -> None:
    clip = _made_for(name, tmp_path)
    pixels, regions = _image()
    normalized = crops.normalize(whole_image(clip, pixels)[None], clip.mean, clip.std)
    on_grid = masks_on_grid(clip, regions)
    assert on_grid.shape == (4, cells, cells)
    assert clip.adapter is not None
    with torch.inference_mode():
        wanted = adapted_regions(clip.model.visual, normalized, on_grid[None], clip.adapter)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(encode_regions(clip, pixels, regions), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["crops", "biased_tokens", "mask_adapter"])
def test_a_folder_keeps_what_it_is_made_for(name: str, tmp_path: Path) -> None:
    """Saved, copied as a base and exported; stock open_clip loads the same weights."""
    clip = _made_for(name, tmp_path / "clip")
    pixels, regions = _image()
    config = model_config(f"local-dir:{tmp_path / 'clip'}")
    save_adapted(clip.model, config, None, {}, tmp_path / "saved", regions=clip.regions, adapter=clip.adapter)
    materialise(f"local-dir:{tmp_path / 'saved'}", None, tmp_path / "base")
    export_clip(tmp_path / "base", tmp_path / "exported")
    loaded = load_adapted(tmp_path / "exported")
    assert loaded.regions == clip.regions
    assert torch.equal(encode_regions(loaded, pixels, regions), encode_regions(clip, pixels, regions))
    assert (tmp_path / "exported" / REGION_ENCODER).is_file() == (name != "crops")
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'exported'}").state_dict()
    assert all(torch.equal(weight, stock[key]) for key, weight in clip.model.state_dict().items())


def test_a_folder_that_is_written_again_forgets_what_it_was_made_for(tmp_path: Path) -> None:
    clip = _made_for("region_tokens", tmp_path)
    config, adapter = model_config(f"local-dir:{tmp_path}"), new_adapter(clip.width, 24, seed=0)
    save_adapted(clip.model, config, None, {}, tmp_path, regions=clip.regions, adapter=adapter)
    assert read_settings(tmp_path) == TOKENS and (tmp_path / ADAPTER).is_file()
    save_adapted(clip.model, config, None, {}, tmp_path)
    assert read_settings(tmp_path) == RegionSettings() and not (tmp_path / ADAPTER).exists()


def test_a_mask_adapter_that_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    """Its sizes are read from the tensors, so one of another number of maps and blocks is no error."""
    save("scale as a vector", tmp_path)
    (tmp_path / REGION_ENCODER).write_text('{"encoder": "mask_adapter"}')
    with pytest.raises(OvsegError, match=rf"{REGION_ENCODER}.*needs a trained adapter, {ADAPTER}.*finetune\.method"):
        load_adapted(tmp_path)
    write_adapter(MaskAdapter(16, 8, num_maps=3, num_blocks=1), tmp_path)
    assert load_adapted(tmp_path).regions.encoder == "mask_adapter"
    assert load_adapted(tmp_path, precision="bf16").adapter is not None
    write_adapter(MaskAdapter(12, 8), tmp_path)
    with pytest.raises(OvsegError, match=rf"{ADAPTER} is .* of width 12, this CLIP has 16.*trained with this CLIP"):
        load_adapted(tmp_path)
    write_tensors({"weight": torch.zeros(1)}, tmp_path / ADAPTER)
    with pytest.raises(OvsegError, match=rf"{ADAPTER} holds no mask adapter: .*copy it again"):
        load_adapted(tmp_path)


@pytest.mark.parametrize(
    ("tower", "settings", "message"),
    [
        ("convnext", RegionSettings("region_tokens"), r"region_tokens cannot be used: .*ConvNeXt.*crops"),
        ("resnet", RegionSettings("pooled"), r"pooled cannot be used: .*ModifiedResNet is no ConvNeXt.*crops"),
        ("resnet", RegionSettings("region_tokens"), r"region_tokens cannot be used: .*ModifiedResNet.*crops"),
        ("siglip", RegionSettings("biased_tokens"), r"biased_tokens cannot be used: .*class token.*region_tokens"),
        ("scale as a vector", RegionSettings("region_tokens", 2), r"start_block=2.*0 to 1"),
        ("convnext", RegionSettings("pooled", image_size=50), r"50 x 50 .* cells of 32 x 32.*multiple"),
        ("scale as a vector", RegionSettings("region_tokens", image_size=50), r"50 x 50 .* patches of 8 x 8.*multiple"),
        (
            "scale as a vector",
            RegionSettings("crops", start_block=1),
            r"start_block=1 is not for .*crops.*region_tokens",
        ),
        ("scale as a vector", RegionSettings("crops", image_size=64), r"image_size=64 is not for .*crops.*32 pixels"),
        ("scale as a vector", RegionSettings("region_tokens", log_bias=((1.0,),)), r"log_bias .* for biased_tokens"),
        (
            "scale as a vector",
            RegionSettings("mask_adapter"),
            r"mask_adapter cannot be used: .*needs a trained adapter",
        ),
        ("scale as a vector", RegionSettings("mask_adapter", 1), r"start_block=1 is not for .*mask_adapter"),
        ("scale as a vector", RegionSettings("biased_tokens", coverage="soft"), r"coverage=soft .*half.*region_tokens"),
        (
            "siglip",
            RegionSettings("region_tokens", coverage="soft"),
            r"coverage=soft .*class token.*set coverage to half",
        ),
    ],
)
def test_what_does_not_belong_together_is_named(
    tower: str, settings: RegionSettings, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OvsegError, match=message):
        with_regions(_clip(tower, tmp_path), settings)


def test_mask_prompts_are_for_crops_alone(tmp_path: Path) -> None:
    clip = _clip("scale as a vector", tmp_path)
    prompts = new_prompts(clip.model.visual, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(OvsegError, match=r"mask prompts.*crops"):
        with_regions(replace(clip, prompts=prompts), TOKENS)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"encoder": "tokens"}',
        '{"encoder": "region_tokens", "start": 1}',
        '{"encoder": "region_tokens", "start_block": "1"}',
        '{"encoder": "region_tokens", "image_size": 0}',
        '{"encoder": "region_tokens", "coverage": "hard"}',
        '{"encoder": "biased_tokens", "log_bias": 3}',
        '{"encoder": "region_tokens", "templates": "vild", "template_weights": [1.0]}',
        '{"encoder": "region_tokens", "template_weights": [1.0]}',
        '{"encoder": "biased_tokens", "start_block": 1, "log_bias": [[1.0]]}',
    ],
)
def test_a_file_that_cannot_be_used_is_named(text: str, tmp_path: Path) -> None:
    save("scale as a vector", tmp_path)
    (tmp_path / REGION_ENCODER).write_text(text)
    with pytest.raises(OvsegError, match=REGION_ENCODER):
        load_adapted(tmp_path)


def test_the_file_holds_what_is_set_alone(tmp_path: Path) -> None:
    clip = _made_for("region_tokens", tmp_path / "clip")
    save_adapted(clip.model, model_config(f"local-dir:{tmp_path / 'clip'}"), None, {}, tmp_path, regions=clip.regions)
    stored = json.loads((tmp_path / REGION_ENCODER).read_text())
    assert stored == {"encoder": "region_tokens", "start_block": 1, "image_size": 48}
