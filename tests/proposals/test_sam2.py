"""SAM of transformers as a source of masks: a real one, small and random."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ovseg.core import masks
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal
from ovseg.proposals.sam2 import sam2


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random SAM whose weights are scaled so that its masks differ from point to point and have high scores."""
    transformers = pytest.importorskip("transformers")
    vision = transformers.SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        output_channels=16,
        window_size=2,
        global_attn_indexes=[0],
        mlp_dim=16,
        num_pos_feats=8,
    )
    prompt = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_depth=2, iou_head_hidden_dim=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = transformers.SamModel(
            transformers.SamConfig(
                vision_config=vision.to_dict(),
                prompt_encoder_config=prompt.to_dict(),
                mask_decoder_config=decoder.to_dict(),
            )
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(10 if weight.ndim > 1 and "vision" not in name else 1)
        overlap = model.mask_decoder.iou_prediction_head.proj_out
        overlap.weight.mul_(0.1)
        overlap.bias.fill_(0.97)
        for layers in model.mask_decoder.output_hypernetworks_mlps:
            layers.proj_out.weight.mul_(1e5)
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder)
    transformers.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> ImageRecord:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pixels[10:30, 10:40] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return ImageRecord(tmp_path, 1, "a.png", 0, (tmp_path / "a.png").stat().st_size, 64, 48)


def test_masks_come_best_first_at_the_size_of_the_image(sam: Path, image: ImageRecord) -> None:
    proposals = [item for item in sam2(str(sam), 100, "cpu")(image) if isinstance(item, Proposal)]
    assert len(proposals) > 3
    scores = [proposal.score for proposal in proposals]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    assert all(0 < masks.area(proposal.rle, 48, 64) <= 48 * 64 for proposal in proposals)
    assert all(proposal.label is None for proposal in proposals)
    assert [*sam2(str(sam), 2, "cpu")(image)] == proposals[:2]


def test_masks_of_low_predicted_iou_are_left_out(sam: Path, tmp_path: Path, image: ImageRecord) -> None:
    folder = Path(shutil.copytree(sam, tmp_path / "sam"))
    state = load_file(folder / "model.safetensors")
    state["mask_decoder.iou_prediction_head.proj_out.bias"].fill_(-9)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert list(sam2(str(folder), 100, "cpu")(image)) == []


def test_a_checkpoint_that_lacks_weights_is_refused(sam: Path, tmp_path: Path) -> None:
    """transformers initializes them randomly and only warns."""
    folder = Path(shutil.copytree(sam, tmp_path / "sam"))
    state = load_file(folder / "model.safetensors")
    del state["mask_decoder.iou_prediction_head.proj_in.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(OvsegError, match="lack 1 keys"):
        sam2(str(folder), 100, "cpu")


def test_a_folder_that_is_no_sam_is_refused_in_one_line(sam: Path, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"gone' is neither a folder nor a name on the Hub"):
        sam2(str(tmp_path / "gone"), 100, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OvsegError, match="cannot load the folder"):
        sam2(str(tmp_path / "empty"), 100, "cpu")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OvsegError, match=r"is a bert.*'sam2'.*sam or sam2 or sam_hq"):
        sam2(str(tmp_path / "empty"), 100, "cpu")
    folder = Path(shutil.copytree(sam, tmp_path / "sam"))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(OvsegError, match="cannot load the folder") as error:
        sam2(str(folder), 100, "cpu")
    assert "\n" not in str(error.value)
