"""Paths and URLs as users write them."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import yaml

from ovseg.core.errors import OvsegError
from ovseg.core.folders import walk_images
from ovseg.core.options import IndexOptions
from ovseg.core.params import read_params
from ovseg.core.paths import is_remote, is_url, to_path
from tests.conftest import ROOT


@pytest.mark.parametrize("text", ["a/b", "/a/b", "file:///a/b", "local:///a/b", "C:/a", "ground_truth:a/b.json"])
def test_a_path_of_this_machine_is_one_of_pathlib(text: str) -> None:
    assert type(to_path(text)) is type(Path()) and not is_remote(to_path(text))
    assert str(to_path(text)) == text.partition("://")[2] if "://" in text else str(to_path(text)) == text


def test_home_is_found_in_file_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert to_path("file://~/a") == to_path("~/a") == Path("/home/me/a")


def test_a_url_keeps_its_text_in_options_and_in_other_processes() -> None:
    pytest.importorskip("upath")
    options = IndexOptions.model_validate({"images": "memory://bucket/images", "captions": Path("captions.json")})
    assert str(options.images / "a.jpg") == "memory://bucket/images/a.jpg" and is_remote(options.images)
    assert options.model_dump(mode="json")["images"] == "memory://bucket/images"
    assert IndexOptions.model_validate_json(options.model_dump_json()) == options
    assert pickle.loads(pickle.dumps(options)) == options
    assert is_url(options.images) and not is_url(options.captions)
    assert to_path(options.images) is options.images


def test_an_unknown_protocol_is_said() -> None:
    pytest.importorskip("upath")
    with pytest.raises(
        OvsegError, match=r"s4://bucket/x: the protocol 's4' is unknown; give a folder, or a URL of s3://"
    ):
        to_path("s4://bucket/x")
    with pytest.raises(OvsegError, match="the protocol 's4' is unknown"):
        IndexOptions.model_validate({"images": "s4://bucket/x", "captions": Path("captions.json")})


@pytest.mark.parametrize(
    ("url", "remedy"), [("s3://b/x", r"pip install -e '\.\[s3\]'"), ("gs://b/x", "pip install gcsfs")]
)
def test_a_package_that_is_not_installed_is_named(url: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("upath")
    for package, protocol in (("s3fs", "s3"), ("gcsfs", "gs")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(OvsegError, match=f"{url} needs a package that is not installed: {remedy}"):
        to_path(url)


def test_a_folder_of_images_without_a_list_is_not_looked_through_in_object_storage() -> None:
    pytest.importorskip("upath")
    with pytest.raises(OvsegError, match="copy it here first"):
        walk_images(to_path("memory://bucket/images"))


def test_what_dvc_watches_may_be_a_url_and_must_be_the_same(tmp_path: Path) -> None:
    pytest.importorskip("upath")
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "data" / "demo").mkdir(parents=True)
    values["index"]["images"] = "memory://photos/train"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(OvsegError, match=r"index.images=memory://photos/train and data.images=.* disagree"):
        read_params(tmp_path / "params.yaml")
    values["data"]["images"] = "memory://photos"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert str(read_params(tmp_path / "params.yaml").index.images) == "memory://photos/train"
