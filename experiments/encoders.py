"""Mining with each region encoder on the demo: precision of the pairs, beside the time of `score`; a table of docs/pairs.md.

    dvc exp run -S demo.train=4000                    the run of the tables, with more images than the default
    python -m experiments.encoders                    the base CLIP with each encoder (four minutes on two cores)
    python -m experiments.encoders --clips FOLDER     adapted CLIPs, too, each with the encoder that it was trained for

Each row scores the nouns and proposals of the run's first images again, one after the other; pairs are chosen by the paper's
rule and judged by the annotations.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.method_rows import ONE_PASS
from experiments.pairs import Outcome, Tables, outcome
from experiments.tables import write_table
from ovseg.clip.region_settings import read_settings
from ovseg.core import tables
from ovseg.core.options import ClipOptions, ScoreOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import from_environment
from ovseg.mining.score import score_nouns
from ovseg.report.metric_tables import markdown

DOCUMENT, NAME = Path("docs/pairs.md"), "python -m experiments.encoders"
DATA, BASE = Path("data"), Path("models/base")
ANNOTATIONS = DATA / "demo" / "train" / "truth.json"
PARTS = 16
"""The parts of the tables that are scored, of 64 images each."""
TOKENS = {"start_block": ONE_PASS["start_block"], "image_size": ONE_PASS["image_size"]}
ROWS: Mapping[str, Mapping[str, object]] = {
    "`crops`": {},
    "`region_tokens`": {"encoder": "region_tokens", **TOKENS},
    "`region_tokens`, `coverage: soft`": {"encoder": "region_tokens", "coverage": "soft", **TOKENS},
    "`biased_tokens`": {"encoder": "biased_tokens", **TOKENS},
}
"""What each changes of section score."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Score with each encoder, judge the pairs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="folders of adapted CLIPs")
    options = parser.parse_args(arguments)
    params, scratch = read_params(), from_environment().work / "encoders"
    shutil.rmtree(scratch, ignore_errors=True)
    data = {name: first_parts(DATA / name, scratch / name) for name in ("index", "nouns", "proposals")}
    rows = {name: score(params, BASE, changes, data, scratch) for name, changes in ROWS.items()}
    for clip in options.clips:
        rows[f"`{read_settings(clip).encoder}`, trained: {clip.name}"] = score(params, clip, {}, data, scratch)
    write_table(DOCUMENT, NAME, lambda: table(rows))
    print(table(rows))


def first_parts(folder: Path, out: Path) -> Path:
    """Make a folder with links to the first parts of a table."""
    out.mkdir(parents=True)
    for part in tables.parts(folder)[:PARTS]:
        (out / part.name).symlink_to(part.absolute())
    return out


def score(
    params: Params, clip: Path, changes: Mapping[str, object], data: Mapping[str, Path], scratch: Path
) -> tuple[Outcome, float]:
    """Score with some changes of section score, and return the judged pairs and the images that were scored a second."""
    out = scratch / "candidates"
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    counts = score_nouns(
        index=data["index"],
        images=params.index.images,
        nouns=data["nouns"],
        proposals=data["proposals"],
        out=out,
        runtime=from_environment(),
        clip=ClipOptions(model=f"local-dir:{clip}"),
        options=ScoreOptions.model_validate(params.score.model_dump() | dict(changes)),
        crop=params.crop,
    )
    rate = counts["images"] / (time.perf_counter() - begin)
    judged = Tables(out, data["proposals"], ANNOTATIONS, scratch / "judged")
    return outcome(judged, {}), rate


def table(rows: Mapping[str, tuple[Outcome, float]]) -> str:
    """Return the rows as a Markdown table."""
    header = ["`score.encoder`", "pairs", "precision", "images a second"]
    cells = [
        [name, f"{judged.selected:,}", f"{100 * judged.correct / judged.judged:.1f}", f"{rate:.1f}"]
        for name, (judged, rate) in rows.items()
    ]
    return markdown([header, *cells])


if __name__ == "__main__":
    main()
