"""The first rows of the plan: what is drawn, downloaded, verified and converted, by what params.yaml names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ovseg.cli.plans.amounts import DEMO, fewer, images_in
from ovseg.cli.plans.rates import Machine, rate
from ovseg.cli.plans.rows import UNKNOWN, Row, many, row
from ovseg.core.params import Params
from ovseg.datasets.fetch.releases import parts_of, releases
from ovseg.datasets.fetch.status import State, part_state
from ovseg.datasets.official import BENCHMARKS, published
from ovseg.mining.estimates import BYTES

MADE_OF = {
    "ade150": ("ade20k", ("ade150",)),
    "ade847": ("ade20k", ("ade847",)),
    "pc59": ("pascal_context", ("voc2010", "context")),
    "pc459": ("pascal_context", ("voc2010", "context")),
    "pas20": ("pascal_voc", ("voc2012", "aug")),
    "voc": ("pascal_voc", ("voc2012", "aug")),
    "cocostuff": ("coco", ("val2017", "stuffthingmaps")),
    "cocostuff156": ("coco", ("val2017", "stuffthingmaps")),
}
"""Which parts of which data set a benchmark is converted from, as data/*/dvc.yaml says it."""
DISK = "stated: a line of 25 MB/s and a disk of 100 MB/s, as in `ovseg data status`"
CONVERTED = PurePosixPath("data/benchmarks")


def data_rows(params: Params, machine: Machine, root: Path) -> list[Row]:
    """Rows of what the stages of data/*/dvc.yaml make; `root` is the folder of the project, to see what is there."""
    wanted = _parts(params)
    rows = [_draw(params, machine)] if any(PurePosixPath(path).is_relative_to(DEMO) for path in _paths(params)) else []
    for dataset, name in wanted:
        (part,) = parts_of(dataset, (name,))
        rows.append(_part_row(part_state(part, root / "data" / dataset)))
    rows += [
        row(
            f"convert@{name}",
            many(published(name)["images"], "images"),
            "CPU",
            machine,
            [(published(name)["images"], rate("convert", name, machine))],
            published(name)["images"] * BYTES["written image" if BENCHMARKS[name].short_side else "label map"],
        )
        for name in _converted(params)
    ]
    return rows


def images_of(benchmark: Path | str, params: Params, root: Path) -> int | None:
    """Images of a benchmark's folder, as published or drawn; fewer, if fewer are listed in it."""
    items, name = root / benchmark / "items.tsv", PurePosixPath(benchmark).name
    listed = len(items.read_text(encoding="utf-8").splitlines()) - 1 if items.is_file() else None
    known = images_in(benchmark, params)
    return fewer(published(name)["images"] if known is None and name in BENCHMARKS else known, listed)


def benchmarks(params: Params) -> list[str]:
    """Folders of the held-out split and of the benchmarks."""
    return [
        str(params.calibrate.benchmark),
        *(f"{params.evaluate.folder}/{name}" for name in params.evaluate.benchmarks),
    ]


def _paths(params: Params) -> list[str]:
    return [*map(str, params.data.model_dump().values()), *benchmarks(params)]


def _converted(params: Params) -> list[str]:
    found = [PurePosixPath(path) for path in benchmarks(params)]
    return list(dict.fromkeys(path.name for path in found if path.parent == CONVERTED and path.name in MADE_OF))


def _parts(params: Params) -> list[tuple[str, str]]:
    """Parts of published data sets that are needed, as (data set, part), each once."""
    found = [PurePosixPath(path) for path in params.data.model_dump().values()]
    named = [(path.parts[1], path.stem) for path in found if path.match("data/*/manifests/*.tsv")]
    made_of = [(MADE_OF[name][0], part) for name in _converted(params) for part in MADE_OF[name][1]]
    return [one for one in dict.fromkeys([*named, *made_of]) if one[1] in releases().get(one[0], {})]


def _part_row(found: State) -> Row:
    part = found.part
    files = sum(holding.files for holding in part.holds)
    login = any(file.login and not file.about for file in part.files)
    there = found.status in ("verified", "linked")
    unknown = login and not there  # nobody publishes the size of what takes an account
    return Row(
        stage=f"{part.dataset}: {part.name}",
        handles=f"{files:,} files, {found.status}{', by hand: it takes an account' if unknown else ''}",
        on="network",
        devices=1,
        seconds=None if unknown else found.seconds,
        writes=None if unknown else found.disk,
        sources=() if there else (UNKNOWN if unknown else DISK,),
        download=None if unknown else found.download,
        kept=False,
    )


def _draw(params: Params, machine: Machine) -> Row:
    drawn = (params.model_extra or {}).get("demo", {})
    number = sum(drawn.get(split, 0) for split in ("train", "val", "benchmark"))
    works = [(number, rate("draw", "demo", machine))]
    return row("draw", many(number, "images"), "CPU", machine, works, number * BYTES["drawn"])
