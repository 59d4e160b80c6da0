"""Files of the Hub and of the web: found, identified, and said to be missing without a connection when that is wished."""

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
from tests import hub as hub_module
from tests.hub import COMMIT, Hub, environment, serving, use

REPO, NAME = "someone/model", "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path) as running:
        use(running, monkeypatch)
        yield running


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", "1")


def test_a_file_of_the_hub_is_downloaded_once_and_known_by_revision_and_sha256(hub: Hub) -> None:
    digest = hub.put(REPO, NAME, b"weights")
    path = weights.fetch("the weights", REPO, [NAME])
    assert path.read_bytes() == b"weights" and path.is_relative_to(hub.cache)
    found = weights.identify("m", None, path)
    assert found == weights.Weights("m", None, f"hf-hub:{REPO}/{NAME}", COMMIT, digest)
    assert weights.repository(path) == REPO
    assert weights.cached(REPO, NAME) == path == weights.cached(REPO, NAME, COMMIT)


def test_the_first_name_that_the_repository_holds_is_taken(hub: Hub) -> None:
    hub.put(REPO, "pytorch_model.bin", b"old")
    assert weights.fetch("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"old"
    hub.put(REPO, NAME, b"new")
    assert weights.fetch("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"old"  # a process sees one version
    hub.fresh()
    assert weights.fetch("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"new"


def test_offline_takes_what_is_cached_and_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(REPO, "pytorch_model.bin", b"old")
    path = weights.fetch("w", REPO, ["pytorch_model.bin"])
    offline(monkeypatch)
    hub.fresh()
    assert weights.fetch("w", REPO, [NAME, "pytorch_model.bin"]) == path
    assert weights.fetch("w", REPO, ["pytorch_model.bin"], commit=COMMIT) == path
    with weights.respect_offline(), pytest.raises(OSError, match="offline mode"):
        HfApi(endpoint=hub.url).model_info(REPO)
    assert hub.asked == []


def test_offline_says_at_once_what_is_missing_where_it_belongs_and_how_large_it_is(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    with pytest.raises(OvsegError) as said:
        weights.fetch("the weights of X", REPO, [NAME], lambda: 1.71)
    for fact in (
        "the weights of X",
        f"{hub.url}/{REPO}/resolve/main/{NAME}",
        str(hub.cache / "models--someone--model"),
        "about 1.7 GB",
        "OVSEG_OFFLINE=1",
        f"hf download {REPO} {NAME}",
        "unset OVSEG_OFFLINE",
    ):
        assert fact in str(said.value)
    assert hub.asked == []
    with pytest.raises(OvsegError, match="only its publisher knows"):
        weights.fetch("w", REPO, [NAME])
    with pytest.raises(OvsegError, match=r"less than 0\.1 GB"):
        weights.fetch("w", REPO, [NAME], lambda: 0.01)


def test_the_remedy_that_is_said_is_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in the message, given to a shell, fetches what was missing to where it is looked for."""
    hub.put(REPO, NAME, b"weights")
    offline(monkeypatch)
    with pytest.raises(OvsegError) as said:
        weights.fetch("the weights", REPO, [NAME])
    command = re.findall(r"`(hf download .*)`", str(said.value))[0]
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, env={**os.environ, **environment(hub), "PATH": places}, check=True, timeout=120)
    assert weights.fetch("the weights", REPO, [NAME]).read_bytes() == b"weights"


def test_without_a_network_the_same_facts_are_said_and_what_is_cached_is_taken(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = replace(hub, url="http://127.0.0.1:9")  # where nobody listens
    use(hub, monkeypatch)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its attempts
    facts = (
        rf"w: cannot be downloaded \(.*\)\. It comes from {re.escape(hub.url)}/.*about 0\.6 GB.*models--someone--model"
    )
    with pytest.raises(OvsegError, match=facts):
        weights.fetch("w", REPO, [NAME], lambda: 0.6)
    folder = hub.cache / "models--someone--model"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT / "pytorch_model.bin").write_bytes(b"kept")
    assert weights.fetch("w", REPO, [NAME, "pytorch_model.bin"]).read_bytes() == b"kept"


def test_a_download_that_breaks_off_says_so_and_leaves_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server promises more than it sends."""
    hub.put(REPO, NAME, b"weights" * 1000)
    send = hub_module._Handler._send

    def short(self: Any, status: int, headers: dict[str, str], content: bytes, body: bool = True) -> None:
        send(self, status, headers, content, False)
        self.wfile.write(content[:10] if body else b"")

    monkeypatch.setattr(hub_module._Handler, "_send", short)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(OvsegError, match="w: cannot be downloaded"):
        weights.fetch("w", REPO, [NAME])
    assert weights.cached(REPO, NAME) is None


def test_a_repository_that_is_not_there_or_holds_no_such_file_says_so(hub: Hub) -> None:
    with pytest.raises(OvsegError, match=r"cannot be downloaded \(404|cannot be downloaded \(.*Not Found"):
        weights.fetch("w", "no/body", [NAME])
    hub.put(REPO, "other.txt", b"")
    with pytest.raises(OvsegError, match=rf"{REPO} on the Hub holds no {NAME} nor b\.bin"):
        weights.fetch("w", REPO, [NAME, "b.bin"])
    for name in ("/absolute/folder", "a/b/c", "with space"):
        with pytest.raises(OvsegError, match="neither a folder nor a name on the Hub"):
            weights.fetch("w", name, [NAME])


def test_a_file_at_an_address_is_kept_checked_and_never_half_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights" * 99
    digest = hashlib.sha256(content).hexdigest()
    hub.put("a/b", f"vit-{digest[:8]}.pt", content)
    url = f"{hub.url}/a/b/resolve/main/vit-{digest[:8]}.pt"
    path = weights.fetch_url("w", url, tmp_path / "clip")
    assert path == tmp_path / "clip" / f"vit-{digest[:8]}.pt" and path.read_bytes() == content
    offline(monkeypatch)
    hub.fresh()
    assert weights.fetch_url("w", url, tmp_path / "clip") == path
    path.write_bytes(content[1:])
    with pytest.raises(OvsegError, match="damaged or another file"):
        weights.fetch_url("w", url, tmp_path / "clip")
    path.unlink()
    with pytest.raises(OvsegError, match=r"w: not on this machine.*about 0\.3 GB"):
        weights.fetch_url("w", url, tmp_path / "clip", lambda: 0.34)
    assert hub.asked == []
    monkeypatch.delenv("OVSEG_OFFLINE")
    with pytest.raises(OvsegError, match="cannot be downloaded"):
        weights.fetch_url("w", url + "x", tmp_path / "clip")
    assert list((tmp_path / "clip").iterdir()) == []


def test_openais_addresses_carry_the_whole_sha256() -> None:
    assert weights.DIGEST.findall("https://x.net/clip/models/" + "5806e77c" * 8 + "/ViT-B-16.pt") == ["5806e77c" * 8]
    assert weights.DIGEST.findall("https://x.com/v0.2-weights/vit_b_16-laion400m_e31-00efa78f.pt") == ["00efa78f"]
    assert weights.DIGEST.findall("https://x.com/MMPT/metaclip/b16_400m.pt") == []


def test_a_file_that_changed_has_another_sha256(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    first, both = weights.sha256(one), weights.sha256(one, other)
    assert first == hashlib.sha256(b"1").hexdigest()
    assert both not in (first, weights.sha256(other, one))
    one.write_bytes(b"10")
    assert weights.sha256(one) == hashlib.sha256(b"10").hexdigest()
    assert weights.identify("m", "p", one) == weights.Weights("m", "p", "file", None, weights.sha256(one))


def test_what_lies_elsewhere_has_no_revision() -> None:
    for name in ("a.bin", "/x/snapshots/abc/a.bin", "snapshots/abc/a.bin"):
        assert weights.revision(Path(name)) is None and weights.repository(Path(name)) is None


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
        assert weights.licence(REPO) == stated
    else:
        folder = Path(shutil.copytree(hub.root / REPO, tmp_path / "folder"))
        assert weights.licence(str(folder)) == stated


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True)])
def test_offline_is_zero_or_one(monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool) -> None:
    monkeypatch.setenv("OVSEG_OFFLINE", value)
    assert weights.offline() == wanted
    monkeypatch.setenv("OVSEG_OFFLINE", "yes")
    with pytest.raises(OvsegError, match="OVSEG_OFFLINE='yes'"):
        weights.offline()


def test_the_hubs_client_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, is_offline_mode

    before = constants.HF_HUB_OFFLINE
    with weights.respect_offline():
        assert is_offline_mode() == before
    offline(monkeypatch)
    with suppress(ValueError), weights.respect_offline():
        assert is_offline_mode()
        raise ValueError("an error inside changes nothing")
    assert constants.HF_HUB_OFFLINE == before
