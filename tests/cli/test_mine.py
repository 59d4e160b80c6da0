"""`ovseg-mine` as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

from ovseg.cli import mine as cli
from ovseg.cli.entry import exit_code
from ovseg.clip.load import load_clip
from ovseg.core import masks, tables
from tests.conftest import HEIGHT, ROOT, SHARED, WIDTH, Coco, Mined, digests
from tests.hub import serving, use

TABLES = ("--index", "x", "--images", "y", "--out", "z")
OPTIONS = ("--workers", "1", "--device", "cpu", "--min-shards", "3")


def command(coco: Coco, out: Path, tagger: str, clip_: Path | str, **changes: str) -> list[str]:
    """A run's command line, with some of its options changed."""
    options = {
        "images": str(coco.images),
        "captions": str(coco.captions),
        "proposals": f"ground_truth:{coco.instances}",
        "clip": f"local-dir:{clip_}" if isinstance(clip_, Path) else clip_,
        "nouns-model": tagger,
        "out": str(out),
        **changes,
    }
    return ["run", *(part for name, value in options.items() for part in (f"--{name}", value)), *OPTIONS]


def call(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """The command in this process, which has torch already: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["ovseg-mine", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    code = exit_code(cli.app)
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="module")
def run(
    coco: Coco, tagger: str, tiny_clip: Path, without_dvc: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a whole run in a process of its own, where DVC cannot be imported; to be read, not written."""
    out = tmp_path_factory.mktemp("cli") / "out"
    environment = {**os.environ, **without_dvc, "COLUMNS": "200", "OVSEG_WORK": str(tmp_path_factory.mktemp("work"))}
    done = subprocess.run(
        [sys.executable, "-m", "ovseg.cli.mine", *command(coco, out, tagger, tiny_clip)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path_factory.mktemp("cwd"),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert list((out / "shards").glob("*.tar"))
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_help_imports_no_heavy_library() -> None:
    """No library is imported for it that takes long to import."""
    heavy = "torch", "open_clip", "spacy", "pyarrow", "transformers", "webdataset", "ray", "scipy", "numpy"
    code = "import sys, ovseg.cli.mine as cli, ovseg.cli.entry as entry; sys.argv = ['ovseg-mine', 'run', '--help']\n"
    code += "entry.exit_code(cli.app)\n"
    code += f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "HEAVY []" in done.stdout


def test_a_run_writes_every_table_and_file(run: Path, coco: Coco) -> None:
    """Tables, shards, the page of pairs and the options; nothing else is left beside them."""
    names = {path.name for path in run.iterdir()}
    assert names == {"run.json", "index", "nouns", "proposals", "candidates", "pairs", "shards", "pairs.html"}
    assert json.loads((run / "run.json").read_text())["options"]["index"]["images"] == str(coco.images)
    for name in ("index", "nouns", "proposals", "candidates", "pairs"):
        assert tables.read(run / name, name).num_rows > 0


def test_the_same_command_does_nothing_twice(
    run: Path,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "pairs.html"}
    code, _, _ = call(command(coco, run, tagger, tiny_clip), monkeypatch, capsys)
    assert code == 0
    assert {
        path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "pairs.html"
    } == before


def test_step_by_step_is_the_same_as_run(
    run: Path,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each step alone, with its defaults, gives the same bytes as the run of all."""
    at = {name: str(tmp_path / name) for name in ("index", "nouns", "proposals", "candidates", "pairs", "shards")}
    images, clip = str(coco.images), f"local-dir:{tiny_clip}"
    steps = [
        ["index", "--images", images, "--captions", str(coco.captions), "--out", at["index"], "--workers", "1"],
        ["nouns", "--index", at["index"], "--nouns-model", tagger, "--out", at["nouns"], "--workers", "1"],
        [
            "propose",
            "--index",
            at["index"],
            "--images",
            images,
            "--proposals",
            f"ground_truth:{coco.instances}",
            "--out",
            at["proposals"],
        ],
        [
            "score",
            "--index",
            at["index"],
            "--images",
            images,
            "--nouns",
            at["nouns"],
            "--proposals",
            at["proposals"],
            "--clip",
            clip,
            "--out",
            at["candidates"],
            "--workers",
            "1",
            "--device",
            "cpu",
        ],
        ["select", "--candidates", at["candidates"], "--proposals", at["proposals"], "--out", at["pairs"]],
        [
            "shards",
            "--index",
            at["index"],
            "--images",
            images,
            "--proposals",
            at["proposals"],
            "--pairs",
            at["pairs"],
            "--out",
            at["shards"],
            "--min-shards",
            "3",
            "--workers",
            "1",
        ],
    ]
    for arguments in steps:
        code, _, err = call(arguments, monkeypatch, capsys)
        assert code == 0, err
    for name in at:
        assert digests(tmp_path / name) == digests(run / name), name


def test_a_dry_run_shows_a_plan_and_does_nothing(
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table of the steps with the amounts of this data; no output, no unfinished work."""
    code, out, _ = call([*command(coco, tmp_path / "out", tagger, tiny_clip), "--dry-run"], monkeypatch, capsys)
    assert code == 0 and "6 images" in out and "measured on this machine" in out
    assert not (tmp_path / "out").exists() and list(work.iterdir()) == []
    code, _, err = call([*command(coco, tmp_path / "out", tagger, "ViT-B-61:random"), "--dry-run"], monkeypatch, capsys)
    assert code == 1 and "ViT-B-61" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--images", "no/images"), "index.images=no/images does not exist"),
        (("--captions", "captions.txt"), "index.captions=captions.txt does not exist"),
        (("--proposals", "ground_truth:masks.json"), "propose.path=masks.json does not exist"),
        (("--proposals", "proposal_network:network"), "network"),
        (("--clip", "ViT-B-32:gone.safetensors"), "gone.safetensors"),
        (("--exclude", "wrong.csv"), "select.exclude=wrong.csv does not exist"),
    ],
)
def test_a_dry_run_names_what_is_missing(
    words: tuple[str, str],
    named: str,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = call([*command(coco, tmp_path / "out", tagger, tiny_clip), *words, "--dry-run"], monkeypatch, capsys)
    assert code == 1 and named in err


def test_a_dry_run_measures_a_clip_of_the_hub_only_if_it_is_on_this_machine(
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(tmp_path) as hub:
        use(hub, monkeypatch)
        for path in tiny_clip.iterdir():
            hub.put("someone/tiny", path.name, path.read_bytes())
        dry_run = [*command(coco, tmp_path / "out", tagger, "hf-hub:someone/tiny"), "--dry-run"]
        code, out, _ = call(dry_run, monkeypatch, capsys)
        assert code == 0 and "The speed of hf-hub:someone/tiny is not measured" in out
        assert "measured on this machine" not in out and hub.asked == []
        monkeypatch.setenv("OVSEG_OFFLINE", "1")
        code, _, err = call(dry_run, monkeypatch, capsys)
        assert code == 1 and "OVSEG_OFFLINE=1 forbids downloads" in err
        monkeypatch.setenv("OVSEG_OFFLINE", "0")
        load_clip("hf-hub:someone/tiny")
        hub.fresh()
        code, out, _ = call(dry_run, monkeypatch, capsys)
        assert code == 0 and "measured on this machine" in out and "not measured" not in out and hub.asked == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clip": "ViT-B-16"}, "NAME:WEIGHTS"),
        ({"clip": "ViT-B-61:openai"}, "ViT-B-61"),
        ({"clip": "local-dir:/gone"}, "/gone"),
        ({"proposals": "magic:x"}, "'magic' is not a source of masks; there are proposal_network, ground_truth"),
        ({"proposals": "ground_truth"}, "a path"),
        ({"proposals": "maskformer:"}, "a model"),
        ({"proposals": "ground_truth:/gone.json"}, "/gone.json"),
        ({"captions": "/gone.json"}, "/gone.json"),
        ({"images": "/gone"}, "/gone"),
        ({"nouns-model": "en_core_web_zz"}, "python -m spacy download en_core_web_zz"),
    ],
)
def test_an_error_that_the_user_can_correct_is_one_sentence(
    changes: dict[str, str],
    named: str,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1, no traceback, and the value that is wrong."""
    code, _, err = call(command(coco, tmp_path / "out", tagger, tiny_clip, **changes), monkeypatch, capsys)
    assert code == 1 and named in err and "Traceback" not in err
    assert not list((tmp_path / "out").glob("shards"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run"], "Missing option"),
        (["run", "--unit", "word"], "'word' is not one of"),
        (["sing"], "No such command"),
        (["select", "--min-area", "0", "--candidates", "x", "--proposals", "y", "--out", "z"], "--min-area"),
        (["inspect", "x", "--number", "many"], "valid"),
        (["propose", *TABLES, "--proposals", "ground_truth:x", "--mask-threshold", "1"], "--mask-threshold"),
    ],
)
def test_wrong_options_are_exit_code_2(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(arguments, monkeypatch, capsys)
    assert code == 2 and named in err


@pytest.mark.parametrize(
    ("executor", "named"), [("dask", "'dask' is not one of local, ray, slurm"), ("ray", "no Ray cluster answers at")]
)
def test_propose_runs_its_units_where_it_is_told(
    executor: str,
    named: str,
    mined: Mined,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong name says which there are; Ray is really asked for, at an address that nothing listens at."""
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    tables_ = ["--index", str(mined.index), "--images", str(mined.coco.images), "--out", str(tmp_path / "out")]
    where = ["--executor", executor, "--unit-timeout", "60"]
    masks = ["--proposals", f"ground_truth:{mined.coco.instances}"]
    code, _, err = call(["propose", *tables_, *masks, *where], monkeypatch, capsys)
    assert code == 1 and named in err and "Traceback" not in err


def test_an_output_of_another_run_is_refused(
    copy: Path,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The option that differs is named; a folder of something else is not touched; a run that was killed at once has none."""
    before = digests(copy)
    code, _, err = call([*command(coco, copy, tagger, tiny_clip), "--top-k", "3"], monkeypatch, capsys)
    assert code == 1 and "score.top_k: 5 there, 3 now" in err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    code, _, err = call(command(coco, tmp_path / "thesis", tagger, tiny_clip), monkeypatch, capsys)
    assert code == 1 and str(tmp_path / "thesis") in err
    assert digests(copy) == before and [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "run.json.tmp").write_text("{")
    code, _, err = call(command(coco, tmp_path / "killed", tagger, tiny_clip), monkeypatch, capsys)
    assert code == 0, err


def test_a_step_of_other_code_is_done_again_or_kept(
    copy: Path,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The file that has changed is named; with --keep the result stays as it is; results do not depend on either."""
    before, manifest = digests(copy), copy / "pairs" / tables.STEP_MANIFEST
    record = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.unlink()  # not the file that scratch shares
    manifest.write_text(json.dumps(record | {"code": record["code"] | {"mining/select.py": "0"}}), encoding="utf-8")
    changed = manifest.read_bytes()
    for options, kept in ((["--keep"], True), ([], False)):
        caplog.clear()
        code, _, err = call([*command(coco, copy, tagger, tiny_clip), *options], monkeypatch, capsys)
        assert code == 0 and "mining/select.py" in caplog.text, err
        assert (manifest.read_bytes() == changed) == kept
    assert digests(copy) == before


def test_verify_passes_what_was_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run, run / "shards"):
        code, out, _ = call(["verify", str(path)], monkeypatch, capsys)
        assert code == 0 and "3 shards" in out and "all sound" in out


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.unlink()  # not the file that scratch shares
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda shards: flip(shards / "00001.tar"), "00001.tar has changed"),
        (lambda shards: flip(shards / "00001.tar", 0.999), "00001.tar has changed"),
        (lambda shards: (shards / "00002.tar").unlink(), "00002.tar is missing"),
        (lambda shards: shutil.copy(shards / "00000.tar", shards / "00009.tar"), "00009.tar"),
        (lambda shards: (shards / "00001.parquet").unlink(), "00001.parquet"),
        (lambda shards: flip(shards / "00001.parquet"), "00001.parquet"),
        (lambda shards: (shards / "SHA256SUMS").unlink(), "SHA256SUMS"),
        (lambda shards: (shards / "nouns.json").write_text("{"), "nouns.json"),
        (lambda shards: (shards / "step.json").unlink(), "step.json"),
    ],
)
def test_verify_finds_damage(
    damage: Any, named: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped byte, and whatever is missing or too much, is named; nothing is a traceback."""
    damage(copy / "shards")
    code, _, err = call(["verify", str(copy)], monkeypatch, capsys)
    assert code == 1 and named in err and "Traceback" not in err


def test_the_same_command_repairs_damage(
    copy: Path,
    run: Path,
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What verify finds, the run's own command puts right, to the last byte."""
    flip(copy / "shards" / "00001.tar")
    code, _, err = call(command(coco, copy, tagger, tiny_clip), monkeypatch, capsys)
    assert code == 0, err
    assert digests(copy / "shards") == digests(run / "shards")


def test_verify_of_no_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(["verify", str(tmp_path)], monkeypatch, capsys)
    assert code == 1 and str(tmp_path) in err


def test_inspect_shows_counts_and_pairs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noun = next(tables.rows(run / "pairs", "pairs"))["noun"]
    code, out, _ = call(["inspect", str(run)], monkeypatch, capsys)
    assert code == 0 and noun in out
    code, out, _ = call(["inspect", str(run), "--noun", noun, "--number", "2"], monkeypatch, capsys)
    assert code == 0 and noun in out
    code, _, err = call(["inspect", str(run), "--noun", "zebra"], monkeypatch, capsys)
    assert code == 1 and "zebra" in err


def test_export_for_open_clip(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stock webdataset reads jpg and txt, as many as there are pairs, with filled backgrounds; twice is refused."""
    import webdataset as wds

    arguments = ["export", str(run), "--out", str(tmp_path / "x"), "--format", "open_clip"]
    code, out, _ = call(arguments, monkeypatch, capsys)
    number = tables.read(run / "pairs", "pairs").num_rows
    assert code == 0 and f"--train-num-samples {number}" in out
    names = [str(path) for path in sorted((tmp_path / "x").glob("*.tar"))]
    samples = list(wds.WebDataset(names, shardshuffle=False).decode("pil").to_tuple("jpg", "txt"))
    assert len(samples) == number and {text for _, text in samples} == {
        row["noun"] for row in tables.rows(run / "pairs", "pairs")
    }
    assert all(image.mode == "RGB" for image, _ in samples)
    code, _, err = call(arguments, monkeypatch, capsys)
    assert code == 1 and "is not empty" in err


def test_export_as_csv(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OVSeg's layout: tabs, `filepath` and `title`, and every image opens."""
    code, _, err = call(["export", str(run), "--out", str(tmp_path / "x"), "--format", "csv"], monkeypatch, capsys)
    assert code == 0, err
    with (tmp_path / "x" / "pairs.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    pairs = list(tables.rows(run / "pairs", "pairs"))
    assert [row["title"] for row in rows] == [pair["noun"] for pair in pairs]
    assert all(Image.open(tmp_path / "x" / row["filepath"]).size for row in rows)


def test_export_as_coco(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pycocotools opens it, every pair is an annotation, and its mask is the proposal's."""
    from pycocotools.coco import COCO

    code, _, err = call(["export", str(run), "--out", str(tmp_path / "x"), "--format", "coco"], monkeypatch, capsys)
    assert code == 0, err
    api = COCO(str(tmp_path / "x" / "instances.json"))
    pairs = list(tables.rows(run / "pairs", "pairs"))
    regions = {(r["image_id"], r["proposal"]): r for r in tables.rows(run / "proposals", "proposals")}
    assert len(api.anns) == len(pairs)
    for pair in pairs:
        annotation = api.anns[pair["pair"] + 1]
        region = regions[pair["image_id"], pair["proposal"]]
        assert api.cats[annotation["category_id"]]["name"] == pair["noun"] and annotation["bbox"] == region["box"]
        assert np.array_equal(api.annToMask(annotation), masks.decode(region["rle"], HEIGHT, WIDTH))


def test_a_run_may_be_named_by_its_folder_of_shards(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = [*("--out", str(tmp_path / "y"), "--format", "coco")]
    page = ["--text", "dog", "--number", "1", "--out", str(tmp_path / "page.html"), "--device", "cpu"]
    for command, *words in (["export", *coco], ["search", *page], ["inspect"], ["verify"]):
        code, _, err = call([command, str(run / "shards"), *words], monkeypatch, capsys)
        assert code == 0, err
    monkeypatch.chdir(run / "shards")
    code, _, err = call(["inspect", "."], monkeypatch, capsys)
    assert code == 0, err


def test_real_coco_goes_through(
    tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The issue's own command on real images and captions, with a limit and a small CLIP; verify passes."""
    data = SHARED / "minicoco"
    if not data.is_dir():
        pytest.skip("../shared/data/minicoco is not there")
    real = Coco(data / "images", data / "captions.json", data / "segments_from_panoptic.json")
    out = tmp_path / "out"
    arguments = [*command(real, out, str(SHARED / "nlp_ewt"), tiny_clip), "--limit", "60"]
    code, out_text, err = call(arguments, monkeypatch, capsys)
    assert code == 0, err
    assert str(out) in out_text and call(["verify", str(out)], monkeypatch, capsys)[0] == 0
    counts = {name: tables.read_counts(out / name) for name in ("index", "nouns", "pairs")}
    assert counts["index"]["images"] == 60 and counts["nouns"]["nouns"] > 60 and counts["pairs"]["pairs"] > 5


def test_open_clip_is_not_changed_by_us(tiny_clip: Path) -> None:
    """Loading through us leaves stock open_clip as it is."""
    from ovseg.clip.load import load_clip

    before = open_clip.list_models()
    load_clip(f"local-dir:{tiny_clip}")
    assert open_clip.list_models() == before
