"""A CLIP that transformers wrote becomes one of open_clip with the same embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg.clip.adapted import load_adapted, read_provenance
from ovseg.clip.from_transformers import convert_folder
from ovseg.core.errors import OvsegError

transformers = pytest.importorskip("transformers")

TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "vocab_size": 49408,
    "eos_token_id": 49407,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}


def write(folder: Path, act: str = "quick_gelu", text: Mapping[str, Any] | None = None, shard: str = "1GB") -> Any:
    """Save a random CLIP as transformers does; it is returned."""
    texts, visions = {**TEXT, "hidden_act": act, **(text or {})}, {**VISION, "hidden_act": act}
    config = transformers.CLIPConfig(text_config=texts, vision_config=visions, projection_dim=16)
    torch.manual_seed(3)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("form", ["one file", "shards", "pickle"])
@torch.inference_mode()
def test_the_embeddings_are_the_same(act: str, form: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    model = write(source, act, shard="1MB" if form == "shards" else "1GB")
    if form == "shards":
        assert len(list(source.glob("model-*.safetensors"))) > 1
    if form == "pickle":
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / "pytorch_model.bin")
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (source / "preprocessor_config.json").write_text(json.dumps(processor))
    convert_folder(source, tmp_path / "out")
    clip = load_adapted(tmp_path / "out")
    assert clip.mean.tolist() == pytest.approx([0.5, 0.4, 0.3]) and (clip.size, clip.width) == (32, 16)
    crops = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = (crops / 255 - clip.mean[:, None, None]) / clip.std[:, None, None]
    tokens = clip.tokenizer(["a star", "There is a large traffic light in the scene."]).long()
    output = model(input_ids=tokens, pixel_values=pixels)
    torch.testing.assert_close(clip.encode_crops(crops), output.image_embeds, atol=1e-5, rtol=1e-5)
    texts = clip.encode_texts(["a star", "There is a large traffic light in the scene."])
    torch.testing.assert_close(texts, output.text_embeds, atol=1e-5, rtol=1e-5)
    assert clip.model.state_dict()["logit_scale"].item() == pytest.approx(model.logit_scale.item())
    assert "transformers" in read_provenance(tmp_path / "out")["base"]["model"]


@pytest.mark.parametrize(
    "text", [{"vocab_size": 500, "eos_token_id": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}]
)
def test_what_open_clip_cannot_build_is_refused(text: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "source", text=text)
    with pytest.raises(OvsegError, match=rf"config\.json: {next(iter(text))}"):
        convert_folder(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"config\.json"):
        convert_folder(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(OvsegError, match="siglip"):
        convert_folder(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(OvsegError, match=r"model\.safetensors"):
        convert_folder(tmp_path, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(OvsegError, match="exists"):
        convert_folder(tmp_path, tmp_path / "out")


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    state = write(tmp_path / "source").state_dict()
    (tmp_path / "source" / "model.safetensors").unlink()
    del state["visual_projection.weight"]
    torch.save(state, tmp_path / "source" / "pytorch_model.bin")
    with pytest.raises(OvsegError, match=r"visual\.proj"):
        convert_folder(tmp_path / "source", tmp_path / "out")
