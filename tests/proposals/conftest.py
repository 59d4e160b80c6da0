"""A local Hub with a MaskFormer, a Swin and a ResNet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovseg.core.options import IndexOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from tests.conftest import Coco
from tests.hub import Hub, serving, use
from tests.proposals.tiny_models import save_maskformer, swin_config

REPO, SWIN, RESNET = "someone/maskformer", "someone/swin", "timm/test_resnet.r160_in1k"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models, stored as their publishers would store them; tests must not write to them."""
    transformers, timm = pytest.importorskip("transformers"), pytest.importorskip("timm")
    root = tmp_path_factory.mktemp("repositories")
    save_maskformer(root / REPO)
    (root / REPO / "README.md").write_text("---\nlicense: other\n---\n# A MaskFormer\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.SwinModel(swin_config()).save_pretrained(root / SWIN)
        state = timm.create_model("test_resnet").state_dict()
    (root / RESNET).mkdir(parents=True)
    save_file(state, root / RESNET / WEIGHTS)
    return root


@pytest.fixture
def hub(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that serves a copy of the repositories."""
    with serving(tmp_path) as running:
        shutil.copytree(repositories, running.root, dirs_exist_ok=True)
        use(running, monkeypatch)
        yield running


@pytest.fixture
def index(coco: Coco, tmp_path: Path, runtime: Runtime) -> Path:
    """The table `index` of six small images."""
    build_index(tmp_path / "index", runtime, IndexOptions(images=coco.images, captions=coco.captions))
    return tmp_path / "index"
