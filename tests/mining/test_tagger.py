"""spaCy pipelines that cannot be used are refused in one sentence with the remedy. Real pipelines, made from the demo's."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.core.options import NounsOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.nouns import extract_nouns
from ovseg.mining.tagger import check_version, load_tagger
from tests.conftest import TAGGER
from tests.mining.test_nouns import index_of

pytestmark = pytest.mark.skipif(not (TAGGER / "meta.json").is_file(), reason="data/demo/tagger is not there")
Edit = Callable[[Path], object]


def edited(folder: Path, *edits: Edit) -> str:
    shutil.copytree(TAGGER, folder)
    for edit in edits:
        edit(folder)
    return str(folder)


def cut(file: str, size: int = 60) -> Edit:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def replace(file: str, old: str, new: str) -> Edit:
    def edit(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def meta(**fields: object) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        (folder / "meta.json").write_text(json.dumps({**content, **fields}), encoding="utf-8")

    return edit


def refusal(model: str) -> str:
    """The one sentence that refuses a pipeline: it has one line, and names the pipeline."""
    with pytest.raises(OvsegError) as error:
        load_tagger(model)
    assert "\n" not in str(error.value) and repr(model) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "edit",
    [
        cut("tok2vec/model"),
        cut("tok2vec/model", 0),
        lambda folder: (folder / "tok2vec/model").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        lambda folder: (folder / "morphologizer/model").unlink(),
        lambda folder: shutil.rmtree(folder / "trainable_lemmatizer"),
        lambda folder: shutil.rmtree(folder / "vocab"),
        cut("trainable_lemmatizer/trees", 20),
        cut("tokenizer"),
        cut("config.cfg", 700),
        lambda folder: (folder / "config.cfg").write_bytes(b"\xff\xfe\0junk"),
        cut("meta.json", 1),
        lambda folder: (folder / "meta.json").unlink(),
    ],
)
def test_a_broken_pipeline_is_to_be_copied_again(edit: Edit, tmp_path: Path) -> None:
    assert "copy or download its folder again" in refusal(edited(tmp_path / "broken", edit))


@pytest.mark.parametrize(
    ("edits", "remedy"),
    [
        ([replace("config.cfg", 'factory = "tok2vec"', 'factory = "transformer"')], "pip install spacy-transformers"),
        (
            [replace("config.cfg", 'factory = "tok2vec"', 'factory = "curated_transformer"')],
            "pip install spacy-curated-transformers",
        ),
        (
            [replace("config.cfg", "spacy.HashEmbedCNN.v2", "spacy-transformers.TransformerModel.v3")],
            "pip install spacy-transformers",
        ),
        (
            [
                meta(requirements=["spacy>=3.8", "spacy-of-ours>=0.1,<0.2"]),
                replace("config.cfg", "spacy.HashEmbedCNN.v2", "ours.Tok2Vec.v1"),
            ],
            "pip install spacy-of-ours,",
        ),
        ([replace("config.cfg", "spacy.HashEmbedCNN.v2", "ours.Tok2Vec.v1")], "package that has 'ours.Tok2Vec.v1'"),
    ],
)
def test_a_plug_in_that_is_missing_is_to_be_installed(edits: list[Edit], remedy: str, tmp_path: Path) -> None:
    assert remedy in refusal(edited(tmp_path / "plug_in", *edits))


def test_a_component_that_nouns_do_not_need_needs_no_plug_in(tmp_path: Path) -> None:
    """Sentiment, parsers and the like are not even made."""
    section = '\n[components.sentiment]\nfactory = "of_some_plug_in"\n'
    model = edited(
        tmp_path / "more",
        replace("config.cfg", '"trainable_lemmatizer"]', '"trainable_lemmatizer","sentiment"]'),
        lambda folder: (folder / "config.cfg").write_text((folder / "config.cfg").read_text() + section),
    )
    text = "Two boats beside a traffic light ."
    tokens = [[(token.pos_, token.lemma_) for token in load_tagger(path)(text)] for path in (model, str(TAGGER))]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("constraint", [">=2.3.0,<2.4.0", ">=3.4.0,<3.5.0", ">=4.0.0,<4.1.0"])
def test_a_pipeline_of_another_spacy_is_said(constraint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that can be loaded all the same is used with a warning; one that cannot is refused with both versions."""
    model = edited(tmp_path / "old", meta(spacy_version=constraint))
    with caplog.at_level(logging.WARNING, logger="ovseg"):
        check_version(model, None)
    assert constraint in caplog.text and "pip install" in caplog.text
    load_tagger(model)
    (tmp_path / "old" / "config.cfg").unlink()
    assert constraint in refusal(model) and "pip install" in refusal(model)
    caplog.clear()
    with pytest.raises(OvsegError, match=re.escape(constraint)):
        check_version(model, None)
    assert not caplog.text


def test_the_version_of_the_pipeline_is_checked() -> None:
    installed = json.loads((TAGGER / "meta.json").read_text(encoding="utf-8"))["version"]
    check_version(str(TAGGER), installed)
    with pytest.raises(OvsegError, match=re.escape(f"nouns.model_version={installed}")):
        check_version(str(TAGGER), "9.9.9")


def test_a_name_that_is_not_installed_has_the_command(tmp_path: Path, runtime: Runtime) -> None:
    index = index_of(tmp_path / "index", [["A star ."]])
    with pytest.raises(OvsegError, match=re.escape("python -m spacy download en_core_web_zz")):
        extract_nouns(index, tmp_path / "out", runtime, NounsOptions(model="en_core_web_zz"))
    assert "python -m spacy download en_core_web_sm " in refusal("en")


def test_other_places_are_named_for_what_they_are(tmp_path: Path) -> None:
    """No folder, an empty one, a package that is no pipeline, an archive, and the folder above the right one."""
    assert "no such folder" in refusal(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    assert "config.cfg" in refusal(str(tmp_path / "empty"))
    assert "no spaCy pipeline" in refusal("numpy")
    (tmp_path / "en.tar.gz").write_bytes(b"\x1f\x8b")
    assert "is a file" in refusal(str(tmp_path / "en.tar.gz"))
    edited(tmp_path / "above" / "inner")
    assert str(tmp_path / "above" / "inner") in refusal(str(tmp_path / "above"))


def test_a_language_that_needs_packages_names_them(tmp_path: Path) -> None:
    """Japanese text is split by a package of its own."""
    model = edited(tmp_path / "ja", replace("config.cfg", 'lang = "en"', 'lang = "ja"'))
    replace("config.cfg", "spacy.Tokenizer.v1", "spacy.ja.JapaneseTokenizer")(tmp_path / "ja")
    if importlib.util.find_spec("sudachipy") is None:
        assert "SudachiPy" in refusal(model)


def test_a_pipeline_without_tags_or_lemmas_is_refused(tmp_path: Path) -> None:
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    assert "no lemmas" in refusal(str(tmp_path / "blank"))
    nlp = spacy.load(TAGGER, exclude=["morphologizer"])
    nlp.to_disk(tmp_path / "lemmas")
    assert "no parts of speech" in refusal(str(tmp_path / "lemmas"))
