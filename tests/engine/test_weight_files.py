"""Weight files from the Hub and from addresses: cached, identified, and, offline, reported as missing without a connection."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from ovseg.core import weights
from ovseg.core.errors import OvsegError
from ovseg.engine import weight_files
from ovseg.engine.download import offline
from ovseg.engine.weight_files import fetch_from_hub, fetch_from_url, find_cached, respect_offline
from tests import hub as hub_module
from tests.hub import COMMIT, Hub, environment, serving, use

REPO, NAME = "someone/model", "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path) as running:
        use(running, monkeypatch)
        yield running


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")


def test_a_file_of_the_hub_is_downloaded_once_and_known_by_revision_and_sha256(hub: Hub) -> None:
    digest = hub.put(REPO, NAME, b"weights")
    path = fetch_from_hub("the weights", REPO, [NAME])
    assert path.read_bytes() == b"weights" and path.is_relative_to(hub.cache)
    identity = weights.identify("m", None, [path])
    assert identity == weights.Weights("m", None, f"hf-hub:{REPO}/{NAME}", COMMIT, digest)
    assert weights.repository(path) == REPO
    assert find_cached(REPO, NAME) == path == find_cached(REPO, NAME, COMMIT)


def test_the_first_name_that_the_repository_holds_is_taken(hub: Hub) -> None:
    hub.put(REPO, "pytorch_model.bin", b"old")
    assert fetch_from_hub("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"old"
    hub.put(REPO, NAME, b"new")
    assert fetch_from_hub("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"old"  # a process sees one version
    hub.fresh()
    assert fetch_from_hub("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"new"


def test_offline_takes_what_is_cached_and_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(REPO, "pytorch_model.bin", b"old")
    path = fetch_from_hub("w", REPO, ["pytorch_model.bin"])
    go_offline(monkeypatch)
    hub.fresh()
    assert fetch_from_hub("w", REPO, [NAME, "pytorch_model.bin"]) == path
    assert fetch_from_hub("w", REPO, ["pytorch_model.bin"], commit=COMMIT) == path
    with respect_offline(), pytest.raises(OSError, match="offline mode"):
        HfApi(endpoint=hub.url).model_info(REPO)
    assert hub.asked == []


def test_offline_an_error_names_the_file_its_source_its_folder_and_its_size(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    with pytest.raises(OvsegError) as raised:
        fetch_from_hub("the weights of X", REPO, [NAME], lambda: 1.71)
    for fact in (
        "the weights of X",
        f"{hub.url}/{REPO}/resolve/main/{NAME}",
        str(hub.cache / "models--someone--model"),
        "about 1.7 GB",
        "OVSEG_OFFLINE=1",
        f"hf download {REPO} {NAME}",
        "unset OVSEG_OFFLINE",
    ):
        assert fact in str(raised.value)
    assert hub.asked == []
    with pytest.raises(OvsegError, match="size unknown"):
        fetch_from_hub("w", REPO, [NAME])
    with pytest.raises(OvsegError, match=r"less than 0\.1 GB"):
        fetch_from_hub("w", REPO, [NAME], lambda: 0.01)


def test_the_command_in_the_message_fetches_the_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in the message, given to a shell, fetches what was missing to where it is looked for."""
    hub.put(REPO, NAME, b"weights")
    go_offline(monkeypatch)
    with pytest.raises(OvsegError) as raised:
        fetch_from_hub("the weights", REPO, [NAME])
    command = re.findall(r"`(hf download .*)`", str(raised.value))[0]
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, env={**os.environ, **environment(hub), "PATH": places}, check=True, timeout=120)
    assert fetch_from_hub("the weights", REPO, [NAME]).read_bytes() == b"weights"


def test_without_a_network_the_error_has_the_same_facts_and_a_cached_file_is_taken(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = replace(hub, url="http://127.0.0.1:9")  # where nobody listens
    use(hub, monkeypatch)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its attempts
    facts = rf"w cannot be downloaded .*{re.escape(hub.url)}/.*about 0\.6 GB.*models--someone--model"
    with pytest.raises(OvsegError, match=facts):
        fetch_from_hub("w", REPO, [NAME], lambda: 0.6)
    folder = hub.cache / "models--someone--model"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "pytorch_model.bin").write_bytes(b"kept")
    assert fetch_from_hub("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"kept"


def test_a_download_that_is_cut_off_is_an_error_and_leaves_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server promises more than it sends."""
    hub.put(REPO, NAME, b"weights" * 1000)
    send = hub_module._Handler._send

    def short(self: Any, status: int, headers: dict[str, str], content: bytes, body: bool = True) -> None:
        send(self, status, headers, content, False)
        self.wfile.write(content[:10] if body else b"")

    monkeypatch.setattr(hub_module._Handler, "_send", short)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(OvsegError, match=REPO):
        fetch_from_hub("w", REPO, [NAME])
    assert find_cached(REPO, NAME) is None


def test_a_repository_that_is_missing_or_lacks_the_file_is_named(hub: Hub) -> None:
    with pytest.raises(OvsegError, match=r"no/body"):
        fetch_from_hub("w", "no/body", [NAME])
    hub.put(REPO, "other.txt", b"")
    with pytest.raises(OvsegError, match=rf"{REPO}.*{NAME}.*b\.bin"):
        fetch_from_hub("w", REPO, [NAME, "b.bin"])
    for name in ("/absolute/folder", "a/b/c", "with space"):
        with pytest.raises(OvsegError, match=re.escape(repr(name))):
            fetch_from_hub("w", name, [NAME])


def test_a_file_at_an_address_is_kept_checked_and_never_half_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights" * 99
    digest = hashlib.sha256(content).hexdigest()
    hub.put("a/b", f"vit-{digest[:8]}.pt", content)
    url = f"{hub.url}/a/b/resolve/main/vit-{digest[:8]}.pt"
    path = fetch_from_url("w", url, tmp_path / "clip")
    assert path == tmp_path / "clip" / f"vit-{digest[:8]}.pt" and path.read_bytes() == content
    go_offline(monkeypatch)
    hub.fresh()
    assert fetch_from_url("w", url, tmp_path / "clip") == path
    path.write_bytes(content[1:])
    with pytest.raises(OvsegError, match=f"{path}.*{digest[:8]}"):
        fetch_from_url("w", url, tmp_path / "clip")
    path.unlink()
    with pytest.raises(OvsegError, match=r"OVSEG_OFFLINE=1.*about 0\.3 GB"):
        fetch_from_url("w", url, tmp_path / "clip", lambda: 0.34)
    assert hub.asked == []
    monkeypatch.delenv("OVSEG_OFFLINE")
    with pytest.raises(OvsegError, match=f"{url}x.*404"):
        fetch_from_url("w", url + "x", tmp_path / "clip")
    assert list((tmp_path / "clip").iterdir()) == []


def test_the_sha256_in_an_address_is_recognized() -> None:
    assert weight_files.DIGEST.findall("https://x.net/clip/models/" + "5806e77c" * 8 + "/ViT-B-16.pt") == [
        "5806e77c" * 8
    ]
    assert weight_files.DIGEST.findall("https://x.com/v0.2-weights/vit_b_16-laion400m_e31-00efa78f.pt") == ["00efa78f"]
    assert weight_files.DIGEST.findall("https://x.com/MMPT/metaclip/b16_400m.pt") == []


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: other\n---\n# M\n", "other"),
        ("---\nlicense: other\nlicense_name: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
        ("---\ntags: [a]\n---\n", None),
        ("# no front matter\n", None),
        ("---\n: : {\n---\n", None),
        ("---\n- a\n---\n", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_licence_is_what_the_card_states(
    hub: Hub, tmp_path: Path, card: str | None, stated: str | None, where: str
) -> None:
    hub.put(REPO, "config.json", b"{}")
    if card is not None:
        hub.put(REPO, "README.md", card.encode())
    if where == "hub":
        assert weight_files.licence(REPO) == stated
    else:
        folder = Path(shutil.copytree(hub.root / REPO, tmp_path / "folder"))
        assert weight_files.licence(str(folder)) == stated


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True)])
def test_offline_is_zero_or_one(monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", value)
    assert offline() == wanted
    monkeypatch.setenv("OVSEG_OFFLINE", "yes")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE='yes'"):
        offline()


def test_the_hubs_client_is_restored_after_respect_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, is_offline_mode

    before = constants.HF_HUB_OFFLINE
    with respect_offline():
        assert is_offline_mode() == before
    go_offline(monkeypatch)
    with suppress(ValueError), respect_offline():
        assert is_offline_mode()
        raise ValueError("an error inside changes nothing")
    assert constants.HF_HUB_OFFLINE == before


def test_a_folder_that_cannot_be_made_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.put("a/b", "vit.pt", b"weights")
    (tmp_path / "clip").write_text("a file where the folder belongs")
    url = f"{hub.url}/a/b/resolve/main/vit.pt"
    with pytest.raises(OvsegError, match=str(tmp_path / "clip")):
        fetch_from_url("w", url, tmp_path / "clip")
