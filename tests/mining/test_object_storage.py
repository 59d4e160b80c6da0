"""Mining from and into object storage gives the bytes of a run on this machine, also where the storage fails for a while."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from ovseg.cli.entry import exit_code
from ovseg.cli.mine import app
from ovseg.core import retries, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, IndexOptions, NounsOptions, ProposeOptions, RunOptions
from ovseg.core.paths import to_path
from ovseg.core.remote_files import UNFINISHED
from ovseg.engine.runtime import Runtime
from ovseg.mining.export import open_clip
from ovseg.mining.index import build_index
from ovseg.mining.run import mine_pairs, read_options
from ovseg.mining.verify import verify_shards
from ovseg.report.browser import write_browser
from ovseg.report.run_text import describe_run
from ovseg.report.search import search_run
from tests.conftest import Coco, digests
from tests.object_storage import Storage, download, upload

BUCKET = "s3://mining"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.01))


def put_coco(coco: Coco, folder: str) -> Coco:
    """The data of `coco` at a URL."""
    root = to_path(folder)
    return Coco(
        upload(coco.images, root / "images"),
        upload(coco.captions, root / "captions.json"),
        upload(coco.instances, root / "instances.json"),
    )


def run_options(coco: Coco, clip: Path, tagger: str) -> RunOptions:
    return RunOptions(
        index=IndexOptions(images=coco.images, captions=coco.captions),
        propose=ProposeOptions(source="ground_truth", path=coco.instances),
        clip=ClipOptions(model=f"local-dir:{clip}"),
        nouns=NounsOptions(model=tagger),
    )


@pytest.mark.slow
def test_a_run_in_a_storage_that_fails_for_a_while_is_the_run_of_this_machine(
    s3: Storage, coco: Coco, tagger: str, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Only the fingerprint of the index differs, which names the folder of images."""
    local = mine_pairs(run_options(coco, tiny_clip, tagger), tmp_path / "local", runtime)
    there = put_coco(coco, f"{BUCKET}/coco")
    s3.faults |= {
        "GET 000001.jpg": ["500", "cut"],
        "GET 000002.jpg": ["slow", "503"],
        "GET captions.json": ["cut"],
        "GET instances.json": ["cut", "500"],
        "GET candidates/00000.parquet": ["cut", "500"],
        "PUT 00000.tar": ["500"],
        "PUT pairs/step.json": ["503"],
    }
    out = to_path(f"{BUCKET}/run")
    counts = mine_pairs(run_options(there, tiny_clip, tagger), out, replace(runtime, work=tmp_path / "work"))
    assert counts == local
    assert not any(s3.faults.values())  # all of them were met
    copies = digests(download(out, tmp_path / "copy"))
    expected = digests(tmp_path / "local")
    assert copies.keys() == expected.keys()
    assert "all sound" in verify_shards(out)
    assert describe_run(out, None, 3) == describe_run(tmp_path / "local", None, 3)
    write_browser(out, there.images, out / "pairs.html", number=5)
    write_browser(tmp_path / "local", coco.images, tmp_path / "pairs.html", number=5)
    assert (out / "pairs.html").read_bytes() == (tmp_path / "pairs.html").read_bytes()
    open_clip(out, to_path(f"{BUCKET}/export"), "mean")
    open_clip(tmp_path / "local", tmp_path / "export", "mean")
    assert digests(download(to_path(f"{BUCKET}/export"), tmp_path / "copied")) == digests(tmp_path / "export")
    page = out / "search.html"
    lines = [
        search_run(run, place, text="kite", image=None, number=3, device="cpu").splitlines()[:-1]
        for run, place in ((out, page), (tmp_path / "local", tmp_path / "search.html"))
    ]
    assert lines[0] == lines[1] and len(page.read_text(encoding="utf-8")) > 1000
    assert {name for name in copies if copies[name] != expected[name]} == {"run.json", "index/step.json"}
    assert (
        mine_pairs(read_options(out), out, replace(runtime, work=tmp_path / "work")) == local
    )  # nothing is done again


@pytest.mark.slow
def test_several_processes_read_and_publish_there(
    s3: Storage, coco_units: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    there = put_coco(coco_units, f"{BUCKET}/units")
    local = IndexOptions(images=coco_units.images, captions=coco_units.captions)
    counts = build_index(tmp_path / "index", runtime, local)
    out, remote = to_path(f"{BUCKET}/index"), IndexOptions(images=there.images, captions=there.captions)
    assert build_index(out, replace(runtime, workers=2), remote) == counts
    copies, expected = digests(download(out, tmp_path / "copy")), digests(tmp_path / "index")
    assert {name for name in copies if copies[name] != expected[name]} == {"step.json"}


def test_an_image_that_stays_unreadable_is_counted_and_tried_again_by_a_retry(
    s3: Storage, coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    there = put_coco(coco, f"{BUCKET}/coco")
    s3.faults["GET 000003.jpg"] = ["500 always"]
    s3.faults["GET 000004.jpg"] = ["cut always"]
    (there.images / "000005.jpg").unlink()
    out, options = to_path(f"{BUCKET}/index"), IndexOptions(images=there.images, captions=there.captions)
    counts = build_index(out, runtime, options)
    assert (counts["images"], counts["dropped.unreadable"], counts["dropped.missing"]) == (3, 2, 1)
    problems = {row["image_id"]: row for row in tables.rows(out, "index") if row["problem"]}
    assert problems[3]["problem"] == problems[4]["problem"] == "unreadable" and problems[5]["problem"] == "missing"
    assert "s3://mining/coco/images/000003.jpg" in problems[3]["detail"] and "in 3 tries" in problems[3]["detail"]
    s3.faults.clear()
    counts = build_index(out, replace(runtime, retry=True), options)
    assert counts["images"] == 5 and "dropped.unreadable" not in counts


def test_a_folder_that_was_cut_off_is_not_read_and_is_written_anew(
    s3: Storage, coco: Coco, runtime: Runtime, tmp_path: Path
) -> None:
    options = IndexOptions(images=coco.images, captions=coco.captions)
    build_index(tmp_path / "local", replace(runtime, work=tmp_path / "work"), options)
    out = to_path(f"{BUCKET}/index")
    s3.faults["PUT 00000.parquet"] = ["500 always"]
    with pytest.raises(
        OvsegError, match=r"s3://mining/index: the object storage does not answer.*finished work is kept"
    ):
        build_index(out, runtime, options)
    assert (out / UNFINISHED).is_file() and not (out / tables.STEP_MANIFEST).exists()
    s3.faults.clear()
    (out / "00000.parquet").write_bytes((tmp_path / "local" / "00000.parquet").read_bytes())
    with pytest.raises(OvsegError, match="s3://mining/index is not finished"):
        tables.read(out, "index")
    build_index(out, runtime, options)
    assert digests(download(out, tmp_path / "copy")) == digests(tmp_path / "local")


def test_a_folder_of_something_else_is_left_alone(s3: Storage, coco: Coco, runtime: Runtime) -> None:
    out = to_path(f"{BUCKET}/mine")
    (out / "diary.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OvsegError, match="was not written by ovseg"):
        build_index(out, runtime, IndexOptions(images=coco.images, captions=coco.captions))
    assert (out / "diary.txt").read_text(encoding="utf-8") == "dear"


def test_a_bucket_that_is_not_there_is_said_and_not_made(s3: Storage, coco: Coco, runtime: Runtime) -> None:
    nowhere = to_path("s3://nowhere/mined")
    options = IndexOptions(images=coco.images, captions=coco.captions)
    with pytest.raises(OvsegError, match=r"s3://nowhere/mined: .*bucket does not exist; check the name of the bucket"):
        build_index(nowhere, runtime, options)
    with pytest.raises(OvsegError, match="the folder of images s3://nowhere/mined does not exist"):
        build_index(to_path(f"{BUCKET}/index"), runtime, options.model_copy(update={"images": nowhere}))
    with pytest.raises(OvsegError, match="the captions s3://nowhere/mined do not exist"):
        build_index(to_path(f"{BUCKET}/index"), runtime, options.model_copy(update={"captions": nowhere}))


def test_shards_and_tables_of_captions_are_read_from_there(
    s3: Storage, coco: Coco, tmp_path: Path, runtime: Runtime
) -> None:
    """WebDataset tars, whose images are read in place by ranges of bytes, and a folder of Parquet files."""
    (tmp_path / "tars").mkdir()
    with wds.TarWriter(str(tmp_path / "tars" / "00000.tar")) as tar:
        for path in sorted(coco.images.iterdir()):
            tar.write({"__key__": path.stem, "jpg": path.read_bytes(), "txt": f"a kite {path.stem}"})
    rows = [{"file_name": path.name, "caption": f"a kite {path.stem}"} for path in sorted(coco.images.iterdir())]
    (tmp_path / "table").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table" / "captions.parquet")
    s3.faults |= {"GET 00000.tar": ["cut", "500", "slow"], "GET captions.parquet": ["cut"]}
    images = upload(coco.images, to_path(f"{BUCKET}/images"))
    for name in ("tars", "table"):
        there = upload(tmp_path / name, to_path(f"{BUCKET}/{name}"))
        local = IndexOptions(images=tmp_path / name if name == "tars" else coco.images, captions=tmp_path / name)
        remote = IndexOptions(images=there if name == "tars" else images, captions=there)
        counts = build_index(tmp_path / f"{name}_index", runtime, local)
        assert build_index(to_path(f"{BUCKET}/{name}_index"), runtime, remote) == counts and counts["images"] == 6
        expected = tables.read(tmp_path / f"{name}_index", "index")
        assert tables.read(to_path(f"{BUCKET}/{name}_index"), "index").equals(expected)
    assert not any(s3.faults.values())


def test_memory_and_file_urls_need_no_further_package(coco: Coco, tmp_path: Path, runtime: Runtime) -> None:
    pytest.importorskip("upath")
    images = upload(coco.images, to_path("memory://coco/images"))
    captions = upload(coco.captions, to_path("memory://coco/captions.json"))
    build_index(to_path("memory://mined/index"), runtime, IndexOptions(images=images, captions=captions))
    local = IndexOptions(images=to_path(coco.images.as_uri()), captions=to_path(f"file://{coco.captions}"))
    assert local.images == coco.images
    build_index(tmp_path / "index", runtime, local)
    assert tables.read(to_path("memory://mined/index"), "index").equals(tables.read(tmp_path / "index", "index"))


def test_missing_credentials_are_said_with_the_remedy(
    s3: Storage, coco: Coco, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_cache", {})
        options = IndexOptions(images=coco.images, captions=coco.captions)
        with pytest.raises(OvsegError, match=r"there are no credentials for the object storage; set AWS_ACCESS_KEY_ID"):
            build_index(to_path(f"{BUCKET}/index"), runtime, options)
        for read in (verify_shards, read_options):
            with pytest.raises(OvsegError, match="there are no credentials"):
                read(to_path(f"{BUCKET}/run"))
        with pytest.raises(OvsegError, match="there are no credentials"):
            build_index(Path("index"), runtime, options.model_copy(update={"images": to_path(f"{BUCKET}/images")}))


def test_a_storage_that_is_not_reached_is_said_by_the_command(
    s3: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.faults["HEAD sizes.json"] = ["500 always"]
    monkeypatch.setattr("sys.argv", ["ovseg-mine", "verify", f"{BUCKET}/run"])
    assert exit_code(app) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "Error: the object storage does not answer as it should" in error and "AWS_ENDPOINT_URL" in error
