"""Where weights come from: tags, repositories, files; without a network, with their revision, in the right activation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip import pretrained as registry
from safetensors.torch import load_file

from ovseg.clip import pretrained as module
from ovseg.clip.adapted import (
    load_adapted,
    load_named,
    made_with,
    materialise,
    read_provenance,
    save_adapted,
)
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.metadata import gigabytes, tags_of_repository
from ovseg.clip.names import CONFIG
from ovseg.clip.pretrained import identify, locate, weights_fingerprint
from ovseg.clip.prompts import new_prompts
from ovseg.clip.region_settings import REGION_ENCODER, RegionSettings
from ovseg.clip.save import PROMPTS, WEIGHTS
from ovseg.clip.text_prompts import new_text_prompts
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from tests.conftest import ROOT, TINY
from tests.hub import COMMIT, Hub, environment, serving, use
from tests.towers import INCEPTION, TOWERS, save

NAME, REPO = "ovseg-tiny-tagged", "someone/tiny"
OPENAI = "timm/vit_base_patch16_clip_224.openai"
CROPS = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The tiny CLIP as a repository, and under tags of a name of open_clip: on the Hub, and at an address."""
    (tmp_path / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / f"{NAME}.json")
    with serving(tmp_path) as running:
        use(running, monkeypatch)
        for name in (CONFIG, WEIGHTS):
            running.put(REPO, name, (tiny_clip / name).read_bytes())
        tag = {"mean": INCEPTION, "std": INCEPTION, "interpolation": "bicubic", "resize_mode": "squash"}
        tags = {
            "hosted": {**tag, "hf_hub": f"{REPO}/"},
            "named": {**tag, "hf_hub": f"{REPO}/{WEIGHTS}"},
            "at_address": {**tag, "url": f"{running.url}/{REPO}/resolve/main/{WEIGHTS}"},
        }
        monkeypatch.setitem(registry._PRETRAINED, NAME, tags)
        monkeypatch.setattr(module, "OPEN_CLIP_CACHE", str(tmp_path / "clip"))
        yield running


@pytest.mark.parametrize("tag", ["hosted", "named", "at_address"])
def test_a_tag_is_downloaded_once_and_then_needs_no_network(
    hub: Hub, tag: str, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the normalization that the tag tells, and the same weights as the folder that was put there."""
    clip = load_clip(NAME, tag)
    stored = load_file(tiny_clip / WEIGHTS)
    assert all(torch.equal(weight, stored[name]) for name, weight in clip.model.state_dict().items())
    assert clip.mean.tolist() == clip.std.tolist() == [0.5, 0.5, 0.5]
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    assert torch.equal(load_clip(NAME, tag).encode_crops(CROPS), clip.encode_crops(CROPS))
    assert hub.asked == []


def test_a_repository_is_downloaded_once_and_then_needs_no_network(
    hub: Hub, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_clip(f"hf-hub:{REPO}")
    assert torch.equal(clip.encode_crops(CROPS), load_adapted(tiny_clip).encode_crops(CROPS))
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    materialise(f"hf-hub:{REPO}", None, tmp_path / "base")
    assert hub.asked == []
    assert torch.equal(load_adapted(tmp_path / "base").encode_crops(CROPS), clip.encode_crops(CROPS))


@pytest.mark.parametrize(
    ("model", "tag", "facts"),
    [
        (
            NAME,
            "hosted",
            ("the weights of", f"{REPO}/resolve/main/{WEIGHTS}", "models--someone--tiny", "less than 0.1 GB"),
        ),
        (NAME, "at_address", ("the weights of", f"{REPO}/resolve/main/{WEIGHTS}", "/clip", "less than 0.1 GB")),
        (f"hf-hub:{REPO}", None, ("the CLIP hf-hub:", CONFIG, "models--someone--tiny")),
        ("ViT-L-14-quickgelu", "openai", ("ViT-L-14-quickgelu:openai", "models--timm--vit_large", "about 1.7 GB")),
        (f"hf-hub:{OPENAI}", None, (OPENAI, "about 0.6 GB")),
        ("ViT-B-16-SigLIP", "webli", ("the tokenizer of ViT-B-16-SigLIP", "models--timm--ViT-B-16-SigLIP")),
        ("ViT-B-16-SigLIP", "random", ("the tokenizer of ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP")),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", ("the config of the text tower", "models--roberta-base")),
    ],
)
def test_offline_a_missing_file_is_an_error_at_once(
    hub: Hub, model: str, tag: str | None, facts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    for step in (load_clip, identify, weights_fingerprint):
        with pytest.raises(OvsegError, match="OVSEG_OFFLINE=1") as raised:
            step(model, tag)
        assert all(fact in str(raised.value) for fact in facts), raised.value
    assert hub.asked == []


def test_a_failed_download_is_an_error_with_the_same_facts(hub: Hub) -> None:
    with pytest.raises(OvsegError, match=r"ViT-B-16-quickgelu:openai.*about 0\.6 GB.*models--timm"):
        load_clip("ViT-B-16-quickgelu", "openai")


def test_weights_are_known_by_source_revision_and_sha256(hub: Hub, tiny_clip: Path, tmp_path: Path) -> None:
    digest = hashing.sha256_file(tiny_clip / WEIGHTS)
    hosted = identify(NAME, "hosted")
    assert (hosted.source, hosted.revision, hosted.sha256) == (f"hf-hub:{REPO}/{WEIGHTS}", COMMIT, digest)
    at_address = identify(NAME, "at_address")
    assert at_address.source.startswith(hub.url) and (at_address.revision, at_address.sha256) == (None, digest)
    assert identify(f"hf-hub:{REPO}", None).revision == COMMIT
    file = identify(NAME, str(tiny_clip / WEIGHTS))
    assert (file.source, file.revision, file.sha256) == ("file", None, digest)
    assert identify(NAME, "random").sha256 is None

    materialise(NAME, "hosted", tmp_path / "base", "MIT")
    base = read_provenance(tmp_path / "base")["base"]
    assert (base["model"], base["pretrained"], base["licence"]) == (NAME, "hosted", "MIT")
    assert (base["source"], base["revision"], base["sha256"]) == (hosted.source, COMMIT, digest)
    card = (tmp_path / "base" / "README.md").read_text()
    assert all(fact in card for fact in (hosted.source, COMMIT, digest))
    about = json.loads(made_with(f"local-dir:{tmp_path / 'base'}", None)["ovseg.clip"])
    assert about["sha256"] == hashing.sha256_file(tmp_path / "base" / WEIGHTS) and about["base"] == base


def test_the_fingerprint_follows_the_weights_behind_a_tag(hub: Hub, tiny_clip: Path) -> None:
    """The same name with other weights on the Hub is another CLIP; another place of the same weights is not another."""
    named, repo = weights_fingerprint(NAME, "hosted"), weights_fingerprint(f"hf-hub:{REPO}", None)
    assert weights_fingerprint(NAME, "hosted") == named and weights_fingerprint(f"hf-hub:{REPO}", None) == repo
    hub.put(REPO, WEIGHTS, (tiny_clip / WEIGHTS).read_bytes()[:-4] + b"\0\0\0\1")
    shutil.rmtree(hub.cache)
    assert weights_fingerprint(NAME, "hosted") != named and weights_fingerprint(f"hf-hub:{REPO}", None) != repo


@pytest.mark.parametrize("beside", ["prompts", "region encoder"])
def test_a_repository_is_used_with_all_that_lies_beside_its_weights(
    hub: Hub, tiny_clip: Path, tmp_path: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beside the weights is loaded, copied, and part of the fingerprint; it is looked up once."""
    plain, model = load_adapted(tiny_clip), "hf-hub:someone/adapted"
    if beside == "prompts":
        texts = new_text_prompts(plain.model, 0, 5)
        clip = replace(plain, prompts=new_prompts(plain.model.visual, 1, seed=0), text_prompts=texts)  # type: ignore[arg-type]
    else:
        clip = replace(plain, regions=RegionSettings("region_tokens", 0))
    provenance = {"base": {"licence": "MIT"}, "steps": []}
    regions = {"text_prompts": clip.text_prompts, "regions": clip.regions}
    save_adapted(clip.model, TINY, clip.prompts, provenance, tmp_path / "made", **regions)  # type: ignore[arg-type]
    for path in (tmp_path / "made").iterdir():
        hub.put("someone/adapted", path.name, path.read_bytes())

    def same(loaded: Clip) -> bool:
        pairs = ((loaded.prompts, clip.prompts), (loaded.text_prompts, clip.text_prompts))
        tensors = all(one is two is None or (one is not None and torch.equal(one, two)) for one, two in pairs)  # type: ignore[arg-type]
        return tensors and loaded.regions == clip.regions

    assert same(load_named(model, None)) and not same(plain)
    fingerprint = weights_fingerprint(model, None)
    materialise(model, None, tmp_path / "base")
    assert same(load_adapted(tmp_path / "base")) and read_provenance(tmp_path / "base") == provenance
    hub.fresh()
    assert same(load_named(model, None))
    assert all(CONFIG in path for path in hub.asked)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    hub.fresh()
    assert same(load_named(model, None)) and hub.asked == []
    monkeypatch.delenv("OVSEG_OFFLINE")
    for name in (PROMPTS, REGION_ENCODER):
        (hub.root / "someone/adapted" / name).unlink(missing_ok=True)
    shutil.rmtree(hub.cache)
    hub.fresh()
    assert weights_fingerprint(model, None) != fingerprint and not same(load_named(model, None))


def test_what_cannot_be_looked_up_beside_the_weights_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be mask prompts, without which the CLIP would be another one."""
    load_clip(f"hf-hub:{REPO}")
    shutil.rmtree(hub.cache / "models--someone--tiny" / ".no_exist")
    hub.fresh()
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the tries
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(OvsegError, match=rf"{PROMPTS} of hf-hub:{REPO} cannot be downloaded .*OVSEG_OFFLINE=1 takes"):
        load_clip(f"hf-hub:{REPO}")
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    load_clip(f"hf-hub:{REPO}")


def test_the_fingerprint_of_a_file_follows_the_preprocessing_in_the_config_beside_it(
    tiny_clip: Path, tmp_path: Path, hub: Hub
) -> None:
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "copy"))
    before = weights_fingerprint(NAME, str(folder / WEIGHTS))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}))
    assert weights_fingerprint(NAME, str(folder / WEIGHTS)) != before


def test_a_repository_with_the_wrong_activation_in_its_config_is_refused(hub: Hub) -> None:
    """OpenAI's weights want QuickGELU, whatever a copy's config says."""
    hub.put(OPENAI, CONFIG, json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-16")}).encode())
    with pytest.raises(OvsegError, match=r"QuickGELU.*ViT-B-16-quickgelu:openai"):
        load_clip(f"hf-hub:{OPENAI}")
    assert not any(WEIGHTS in path for path in hub.asked)


def openai_file(folder: Path) -> Path:
    path = folder / "ViT-B-16.pt"  # as OpenAI's own file is called
    path.write_bytes(b"x")
    return path


def hub_file(folder: Path) -> Path:
    path = folder / f"models--{OPENAI.replace('/', '--')}" / "snapshots" / COMMIT / WEIGHTS
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


def beside_config(folder: Path) -> Path:
    (folder / CONFIG).write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-16-quickgelu")}))
    path = folder / WEIGHTS
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("make", [openai_file, hub_file, beside_config])
def test_a_file_that_is_known_to_want_quickgelu_is_refused_without_it(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(OvsegError, match=r"QuickGELU.*ViT-B-16-quickgelu:"):
        locate("ViT-B-16", str(path))
    assert locate("ViT-B-16-quickgelu", str(path)).path == path


def test_a_file_of_which_nothing_is_known_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    assert (
        locate("ViT-B-16", str(tmp_path / "mine.pt")).path
        == locate("ViT-B-16-quickgelu", str(tmp_path / "mine.pt")).path
    )


def test_a_file_is_normalised_as_the_weights_of_its_model_are(hub: Hub, tmp_path: Path) -> None:
    """SigLIP's by 0.5; where open_clip has both kinds, as open_clip does, unless a config beside it tells."""
    hub.put("timm/ViT-B-16-SigLIP", "tokenizer_config.json", b"{}")
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"x")
    assert locate("ViT-B-16-SigLIP", str(path)).preprocess["mean"] == INCEPTION
    assert locate("ViT-B-16", str(path)).preprocess["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert "mean" not in locate("ViT-L-14", str(path)).preprocess
    config = {"model_cfg": open_clip.get_model_config("ViT-L-14"), "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert locate("ViT-L-14", str(path)).preprocess == {"mean": [0.1, 0.2, 0.3]}


def test_openais_archive_of_code_is_refused_with_what_to_take(tmp_path: Path, tiny_clip: Path) -> None:
    """TorchScript runs what it holds; `weights_only` refuses it."""
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(OvsegError, match=r"clip\.pretrained=openai"):
        load_clip("ViT-B-16-quickgelu", str(path))


def test_a_siglip_that_names_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """open_clip would guess its vocabulary from the name, and download it from elsewhere."""
    path = tmp_path / "my-siglip.json"
    path.write_text(json.dumps(TOWERS["siglip"]))
    open_clip.add_model_config(path)
    with pytest.raises(OvsegError, match="names no tokenizer"):
        load_clip("my-siglip", "random")


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    save("native average", tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = [32, 64]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    state = load_file(tmp_path / WEIGHTS)
    state["visual.positional_embedding"] = torch.zeros(33, 32)
    from safetensors.torch import save_file

    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(OvsegError, match="32 x 64 pixels"):
        load_adapted(tmp_path)


@pytest.mark.parametrize(("name", "size"), [("ViT-B-16", 0.60), ("ViT-L-14", 1.71), ("ViT-B-16-SigLIP", 0.81)])
def test_sizes_are_those_of_the_published_files(name: str, size: float) -> None:
    assert gigabytes(open_clip.get_model_config(name)) == pytest.approx(size, abs=0.01)


def test_every_repository_of_open_clip_wants_one_activation() -> None:
    """So that what a repository's name tells of its weights is certain."""
    for model, tag in open_clip.list_pretrained():
        about = open_clip.get_pretrained_cfg(model, tag)
        entries = [
            open_clip.get_pretrained_cfg(*pair)
            for pair in tags_of_repository(about.get("hf_hub", "").rpartition("/")[0])
        ]
        assert len({bool(one.get("quick_gelu")) for one in entries}) == 1


SCRIPT = """
import json, os, socket, sys
from pathlib import Path
from ovseg.clip.adapted import load_adapted, materialise
from ovseg.clip.load import load_clip
from ovseg.core.errors import OvsegError
os.environ["OVSEG_OFFLINE"] = sys.argv[2]
connect, tried = socket.socket.connect, []
socket.socket.connect = lambda *to: (tried.append(str(to)), connect(*to))[1]
try:
    clip = load_clip("hf-hub:someone/siglip")
    materialise("hf-hub:someone/siglip", None, Path(sys.argv[1]))
    again = load_adapted(Path(sys.argv[1]))
    words = [one.tokenizer(["a star"])[0, :2].tolist() for one in (clip, again)]
    result = [clip.mean.tolist(), *words]
except OvsegError as error:
    result = str(error)
print(json.dumps([result, len(tried)]))
"""


def test_a_siglip_with_its_tokenizer_comes_from_the_hub_and_then_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    """In processes of their own, as a user has them: first empty and offline, then online, then offline."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "star": 2, "a": 3}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    folder = save("siglip", hub.root / "someone" / "siglip")
    fast.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/siglip"
    (folder / CONFIG).write_text(json.dumps(config))

    def run(out: str, offline: str) -> Any:
        variables = {**os.environ, **environment(hub), "PYTHONPATH": f"{ROOT / 'pipeline'}"}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / out), offline]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=True)
        return json.loads(done.stdout.strip().splitlines()[-1])

    result, connections = run("none", "1")
    assert "OVSEG_OFFLINE=1" in result and connections == 0
    result, connections = run("one", "0")
    assert result == [[0.5, 0.5, 0.5], [3, 2], [3, 2]] and connections > 0
    hub.fresh()
    assert run("two", "1") == [result, 0]
    assert hub.asked == []
