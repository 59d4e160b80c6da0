"""Other layouts of adapted CLIPs: the checkpoints that OVSeg's authors released, and repositories of the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from ovseg.clip import convert
from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.convert import MASK_EMBEDDING, convert_clip
from ovseg.clip.export import export_clip
from ovseg.clip.prompts import new_prompts
from ovseg.clip.save import PROMPTS
from ovseg.core.errors import OvsegError
from tests.conftest import TINY, random_clip

NAME = "tiny-test-vit"


DEEP: dict[str, Any] = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 3}}


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model under a name of open_clip."""
    return _register(NAME, TINY, tmp_path, monkeypatch)


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model of three blocks under a name of open_clip."""
    return _register(f"{NAME}-deep", DEEP, tmp_path, monkeypatch)


def _register(name: str, config: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "configs").mkdir()
    (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "configs")
    monkeypatch.setattr(convert, "model_config", lambda _: dict(config))
    return name


def _state(config: dict[str, Any] = TINY) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {
        name: torch.randn_like(tensor)
        for name, tensor in open_clip.CLIP(**config).state_dict().items()
        if name != "attn_mask"
    }


def _write(path: Path, state: dict[str, Tensor], **rest: Any) -> Path:
    torch.save({"epoch": 5, "name": "x", "state_dict": {f"module.{k}": v for k, v in state.items()}, **rest}, path)
    return path


@pytest.mark.parametrize("positions", [16, 1])
def test_a_released_checkpoint_is_read_with_its_prompts(tmp_path: Path, known: str, positions: int) -> None:
    state = _state() | {MASK_EMBEDDING: torch.randn(1, positions, 32)}
    convert_clip(_write(tmp_path / "ovseg.pt", state, optimizer={"state": {}}), known, tmp_path / "out")
    clip = load_adapted(tmp_path / "out")
    assert clip.prompts is not None
    assert torch.equal(clip.prompts, state.pop(MASK_EMBEDDING).expand(-1, 16, -1))
    loaded = clip.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert "CC-BY-NC" in (tmp_path / "out" / "README.md").read_text()


def test_a_bare_state_without_prompts_is_read_too(tmp_path: Path, known: str) -> None:
    torch.save(_state(), tmp_path / "bare.pt")
    convert_clip(tmp_path / "bare.pt", known, tmp_path / "out")
    assert load_adapted(tmp_path / "out").prompts is None


@pytest.mark.parametrize("shape", [(0, 16, 32), (0, 1, 32), (0, 0, 32), (0,)])
def test_prompts_of_depth_0_are_no_prompts(tmp_path: Path, known: str, shape: tuple[int, ...]) -> None:
    """As the authors' code stores them for a CLIP without mask prompt tuning."""
    convert_clip(_write(tmp_path / "x.pt", _state() | {MASK_EMBEDDING: torch.zeros(shape)}), known, tmp_path / "out")
    assert not (tmp_path / "out" / PROMPTS).exists() and load_adapted(tmp_path / "out").prompts is None
    assert "no mask prompts" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("zero", "named"), [((0, 1, 2), "all 3 layers"), ((2,), "layers 3 "), ((0, 1), "layers 1, 2 "), ((), None)]
)
def test_prompts_that_are_all_zero_are_said(
    tmp_path: Path, deep: str, zero: tuple[int, ...], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """By the conversion and by every load of the result; they are kept as they are."""
    prompts = torch.randn(3, 16, 32)
    prompts[list(zero)] = 0
    convert_clip(_write(tmp_path / "x.pt", _state(DEEP) | {MASK_EMBEDDING: prompts}), deep, tmp_path / "out")
    assert (named is None and "zero" not in caplog.text) or str(named) in caplog.text
    caplog.clear()
    loaded = load_adapted(tmp_path / "out").prompts
    assert loaded is not None and torch.equal(loaded, prompts)
    assert (named is None and "zero" not in caplog.text) or str(named) in caplog.text


def test_every_key_is_accounted_for(tmp_path: Path, known: str) -> None:
    state = _state()
    del state["visual.proj"]
    state["visual.extra"] = torch.zeros(1)
    state["visual.class_embedding"] = torch.zeros(5)
    with pytest.raises(
        OvsegError, match=r"missing .*visual\.proj.*unexpected .*visual\.extra.*shape .*visual\.class_embedding"
    ):
        convert_clip(_write(tmp_path / "x.pt", state), known, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        (torch.ones(3, 9, 32), r"visual.mask_embedding is \[3, 9, 32\]"),
        (torch.ones(1, 16, 31), r"visual.mask_embedding is \[1, 16, 31\]"),
        (torch.ones(16, 32), r"visual.mask_embedding is \[16, 32\]"),
        (torch.ones(2, 16, 32), "depth 2.*1 blocks"),
        (torch.full((1, 16, 32), float("nan")), "not finite"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path, known: str, prompts: Tensor, problem: str) -> None:
    with pytest.raises(OvsegError, match=problem):
        convert_clip(_write(tmp_path / "x.pt", _state() | {MASK_EMBEDDING: prompts}), known, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, known: str, content: bytes | None) -> None:
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OvsegError, match="cannot read"):
        convert_clip(path, known, tmp_path / "out")


def test_a_pickle_with_code_is_not_run(tmp_path: Path, known: str) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(OvsegError, match="cannot read"):
        convert_clip(tmp_path / "x.pt", known, tmp_path / "out")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((768, 3, 16, 16), "is not a ViT-B-16-quickgelu: missing"),
        ((32, 3, 8, 8), "is neither .* give its open_clip name"),
    ],
)
def test_a_released_model_is_recognized_by_its_sizes(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    path = _write(tmp_path / "x.pt", {"visual.conv1.weight": torch.zeros(shape)})
    with pytest.raises(OvsegError, match=message):
        convert_clip(path, None, tmp_path / "out")


def test_a_checkpoint_in_the_older_format_of_torch_is_read(tmp_path: Path, known: str) -> None:
    torch.save(_state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    convert_clip(tmp_path / "old.pt", known, tmp_path / "out")
    assert load_adapted(tmp_path / "out").prompts is None


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="knows no model 'ViT-Z'"):
        convert_clip(tmp_path / "x.pt", "ViT-Z", tmp_path / "out")


@pytest.mark.parametrize("half", [False, True])
def test_an_export_for_the_hub_loads_in_stock_open_clip(tmp_path: Path, half: bool) -> None:
    network = random_clip(TINY)
    prompts = new_prompts(network.visual, 1, 0)
    save_adapted(network, TINY, prompts, {"base": {"model": "tiny"}, "steps": []}, tmp_path / "model")
    export_clip(tmp_path / "model", tmp_path / "hub", half)
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'hub'}")
    tolerance = 1e-3 if half else 0
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(stock.state_dict()[name], tensor, atol=tolerance, rtol=tolerance)
    assert (tmp_path / "hub" / PROMPTS).is_file()
    assert "tiny" in (tmp_path / "hub" / "README.md").read_text()
    with pytest.raises(OvsegError, match="exists"):
        export_clip(tmp_path / "model", tmp_path / "hub")


def test_nothing_is_written_over(tmp_path: Path, known: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OvsegError, match="exists"):
        convert_clip(_write(tmp_path / "x.pt", _state()), known, tmp_path / "out")


def test_a_tokenizer_of_transformers_travels_with_the_clip(tmp_path: Path) -> None:
    """As SigLIP's does: stock open_clip looks for it in the folder itself."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from ovseg.clip.adapted import materialise
    from ovseg.clip.save import save_clip

    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "star": 2, "a": 3}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tiny: dict[str, Any] = dict(TINY)
    text = {**tiny.pop("text_cfg"), "hf_tokenizer_name": "not/used", "vocab_size": 8}
    config = {**tiny, "custom_text": True, "text_cfg": text}
    network = open_clip.CustomTextCLIP(**tiny, text_cfg=text)
    open_clip.set_model_preprocess_cfg(
        network, {"size": 32, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    )
    save_clip(network, config, tmp_path / "first")
    fast.save_pretrained(tmp_path / "first")
    materialise(f"local-dir:{tmp_path / 'first'}", None, tmp_path / "base")
    clip = load_adapted(tmp_path / "base")
    assert clip.tokenizer(["a star"])[0, :2].tolist() == [3, 2]
    assert clip.encode_texts(["a star"]).shape == (1, 16)
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(OvsegError, match="tokenizer"):
        load_adapted(tmp_path / "base")
