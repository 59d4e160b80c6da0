"""Loading and saving CLIP: every key accounted for, and the features of stock open_clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg.clip.adapted import materialise
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.names import CONFIG, parse
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.clip.save import WEIGHTS, save_clip
from ovseg.core import crops
from ovseg.core.errors import OvsegError
from tests.conftest import TINY

NAME = "ovseg-tiny-test"
TEXTS = ["a dog", "", "There is a large traffic light in the scene.", "word " * 40, "ein Bär 😀"]
CROPS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))


@pytest.fixture(autouse=True, scope="module")
def _registered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tiny model under a name, as open_clip's own have."""
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    open_clip.add_model_config(path)


@pytest.fixture
def clip(tiny_clip: Path) -> Clip:
    return load_clip(f"local-dir:{tiny_clip}")


@pytest.fixture
def folder(tiny_clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip, tmp_path / "clip"))


def test_texts_are_encoded_as_open_clip_does(clip: Clip, tiny_clip: Path) -> None:
    """Leaving the padding out changes nothing: short, empty, too long and foreign texts, alone and together."""
    stock, tokenize = (
        open_clip.create_model(f"local-dir:{tiny_clip}").eval(),
        open_clip.get_tokenizer(f"local-dir:{tiny_clip}"),
    )
    with torch.no_grad():
        expected = torch.nn.functional.normalize(stock.encode_text(tokenize(TEXTS)), dim=-1)
    assert torch.allclose(clip.encode_texts(TEXTS), expected, atol=1e-5)
    for text, vector in zip(TEXTS, expected, strict=True):
        assert torch.allclose(clip.encode_texts([text])[0], vector, atol=1e-5)


def test_crops_are_encoded_as_open_clip_does(clip: Clip, tiny_clip: Path) -> None:
    """Normalised by the model's own mean and std, unit vectors, float32 on the CPU."""
    stock = open_clip.create_model(f"local-dir:{tiny_clip}").eval()
    floats = (CROPS / 255 - torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]) / torch.tensor(
        open_clip.OPENAI_DATASET_STD
    )[:, None, None]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(stock.encode_image(floats), dim=-1)
    embeddings = clip.encode_crops(CROPS)
    assert torch.allclose(embeddings, expected, atol=1e-5) and embeddings.dtype == torch.float32
    assert (clip.size, clip.width) == (32, 16) and clip.mean.tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert not any(weight.requires_grad for weight in clip.model.parameters()) and not clip.model.training


def test_a_saved_clip_is_the_same_to_us_and_to_stock_open_clip(clip: Clip, tmp_path: Path) -> None:
    """save_clip, then our loader and open_clip's own: the same features, and the same weights bit for bit."""
    save_clip(clip.model, TINY, tmp_path / "again")
    ours = load_clip(f"local-dir:{tmp_path / 'again'}")
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'again'}").eval()
    assert torch.equal(ours.encode_crops(CROPS), clip.encode_crops(CROPS))
    images = crops.normalize(CROPS, clip.mean, clip.std)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(stock.encode_image(images), dim=-1)
    assert torch.allclose(ours.encode_crops(CROPS), expected, atol=1e-6)
    for name, value in clip.model.state_dict().items():
        assert torch.equal(value, stock.state_dict()[name]), name


def test_half_precision_storage_loads_as_float32(clip: Clip, tmp_path: Path) -> None:
    save_clip(clip.model, TINY, tmp_path / "half", torch.float16)
    half = load_clip(f"local-dir:{tmp_path / 'half'}")
    assert half.model.state_dict()["text_projection"].dtype == torch.float32
    assert (half.encode_texts(["a dog"]) @ clip.encode_texts(["a dog"]).T).item() > 0.999
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (4 * sum(v.numel() for v in clip.model.parameters()))


def test_bf16_is_near_and_still_gives_float32(tiny_clip: Path, clip: Clip) -> None:
    half = load_clip(f"local-dir:{tiny_clip}", precision="bf16")
    embeddings = half.encode_crops(CROPS)
    assert embeddings.dtype == torch.float32 and (embeddings * clip.encode_crops(CROPS)).sum(1).min() > 0.99
    assert (half.encode_texts(TEXTS) * clip.encode_texts(TEXTS)).sum(1).min() > 0.98


def test_random_is_the_same_every_time_and_leaves_the_dice_alone() -> None:
    """Two loads of random weights are equal, whatever was drawn before, and do not move torch's generator."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_clip(NAME, "random")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    second = load_clip(NAME, "random")
    assert torch.equal(first.encode_crops(CROPS), second.encode_crops(CROPS))


def test_an_unknown_name_shows_near_ones() -> None:
    with pytest.raises(OvsegError, match=r"'ViT-B-61'.*ViT-B-16"):
        load_clip("ViT-B-61", "openai")
    with pytest.raises(OvsegError, match=r"'zzzzzz'.*none"):
        load_clip("zzzzzz", "openai")


def test_an_unknown_tag_shows_the_known_ones() -> None:
    with pytest.raises(OvsegError, match=r"'opemai'.*ViT-B-16.*openai"):
        load_clip("ViT-B-16", "opemai")
    with pytest.raises(OvsegError, match="tags: none"):
        load_clip(NAME, "openai")
    with pytest.raises(OvsegError, match=r"clip\.pretrained"):
        load_clip("ViT-B-16")


def changed(folder: Path, change: Any) -> Path:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    return folder


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["visual.conv1.weight"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["visual.surplus"] = torch.zeros(1)


def resize(state: dict[str, torch.Tensor]) -> None:
    state["text_projection"] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("change", "key"), [(drop, "visual.conv1.weight"), (add, "visual.surplus"), (resize, "text_projection")]
)
@pytest.mark.parametrize("how", ["folder", "safetensors", "pickle"])
def test_every_key_counts(change: Any, key: str, how: str, folder: Path) -> None:
    """A missing, an extra and a misshapen key is an error that names it, from a folder and from a file."""
    changed(folder, change)
    file = folder / "weights.pt"
    torch.save(load_file(folder / WEIGHTS), file)
    arguments = {
        "folder": (f"local-dir:{folder}", None),
        "safetensors": (NAME, str(folder / WEIGHTS)),
        "pickle": (NAME, str(file)),
    }
    with pytest.raises(OvsegError, match=key):
        load_clip(*arguments[how])


def test_a_file_loads_where_every_key_fits(folder: Path, clip: Clip) -> None:
    torch.save({"state_dict": load_file(folder / WEIGHTS)}, folder / "epoch_1.pt")
    for name in (WEIGHTS, "epoch_1.pt"):
        loaded = load_clip(NAME, str(folder / name))
        assert torch.equal(loaded.encode_crops(CROPS), clip.encode_crops(CROPS))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/ovseg-evil"),))


@pytest.mark.parametrize("data", [b"", b"hello" * 100, b"PK\x03\x04" + b"\0" * 50])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_a_damaged_file_is_an_error(data: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OvsegError, match="cannot load the CLIP"):
        load_clip(NAME, str(tmp_path / name))


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    """Weights from outside are loaded as weights only."""
    Path("/tmp/ovseg-evil").unlink(missing_ok=True)
    torch.save({"state_dict": Evil()}, tmp_path / "weights.pt")
    with pytest.raises(OvsegError, match="cannot load the CLIP"):
        load_clip(NAME, str(tmp_path / "weights.pt"))
    assert not Path("/tmp/ovseg-evil").exists()


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_folder_without_its_files_is_an_error_that_names_them(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(OvsegError, match=f"{missing} is missing"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 16}}'])
def test_a_damaged_config_is_an_error(content: str, folder: Path) -> None:
    (folder / CONFIG).write_text(content, encoding="utf-8")
    with pytest.raises(OvsegError, match="cannot load the CLIP"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-L-14"])
def test_another_activation_than_the_weights_is_an_error(model: str) -> None:
    """open_clip only warns, and the features are wrong; here it stops, before anything is downloaded."""
    with pytest.raises(OvsegError, match=f"QuickGELU mismatch.*{model}-quickgelu"):
        load_clip(model, "openai")


def test_the_fingerprint_is_of_the_content(folder: Path, tiny_clip: Path) -> None:
    """Equal weights at another path are the same, one changed weight is another, and a name has its tag."""
    same = weights_fingerprint(f"local-dir:{tiny_clip}", None)
    assert weights_fingerprint(f"local-dir:{folder}", None) == same
    changed(folder, lambda state: state["text_projection"].add_(1))
    assert weights_fingerprint(f"local-dir:{folder}", None) != same
    assert weights_fingerprint(NAME, "random") != weights_fingerprint("ViT-B-16", "random")
    file = weights_fingerprint(NAME, str(folder / WEIGHTS))
    assert file != weights_fingerprint(NAME, str(tiny_clip / WEIGHTS))


def test_materialise_copies_any_clip(tmp_path: Path, clip: Clip) -> None:
    """A named model becomes a folder that loads alike, with a note of where it came from."""
    materialise(NAME, "random", tmp_path / "base")
    loaded, named = load_clip(f"local-dir:{tmp_path / 'base'}"), load_clip(NAME, "random")
    assert torch.equal(loaded.encode_crops(CROPS), named.encode_crops(CROPS))
    assert json.loads((tmp_path / "base" / "provenance.json").read_text())["base"]["pretrained"] == "random"
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'base'}")
    assert torch.equal(stock.state_dict()["text_projection"], named.model.state_dict()["text_projection"])


def test_names_of_the_command_line(tmp_path: Path) -> None:
    """NAME:WEIGHTS with a tag, a file, a folder or random; and the two schemas of open_clip."""
    assert parse("ViT-B-16:openai") == ("ViT-B-16", "openai")
    assert parse("ViT-B-16:/a/b.pt") == ("ViT-B-16", "/a/b.pt")
    (tmp_path / CONFIG).touch()
    assert parse(f"ViT-B-16:{tmp_path}") == (f"local-dir:{tmp_path}", None)
    assert parse("local-dir:models/base") == ("local-dir:models/base", None)
    assert parse("hf-hub:laion/x") == ("hf-hub:laion/x", None)
    for text in ("ViT-B-16", "ViT-B-16:", ":openai", ""):
        with pytest.raises(OvsegError, match="NAME:WEIGHTS"):
            parse(text)
