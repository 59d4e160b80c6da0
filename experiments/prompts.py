"""Whether mask prompts help a CLIP that is finetuned already, on the demo; writes the table of docs/adaptation.md.

    dvc exp run -S demo.train=4000                   the run of the tables, with more images than the default
    python -m experiments.prompts                    train and measure what has no figures (hours on two cores)
    python -m experiments.prompts --rows NAME ...    these rows alone
    python -m experiments.prompts --depths 3         prompts of this depth alone
    python -m experiments.prompts --table            write the table from the figures that are stored

A row is a finetuning of one strength; then prompts of several depths are trained. The held-out masks are in three groups by
the fraction of blank patches in their crops, since prompts act on those alone. Nothing is mined again. Figures are stored in
experiments/prompts.json as soon as a model is measured; several processes may run other rows or seeds at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
from open_clip.model import resize_pos_embed
from safetensors.torch import load_file, save_file

from experiments.mask_groups import heldout_masks, measure_groups, write_groups
from experiments.method_rows import Changes
from experiments.method_runs import BASE, FINETUNED, PROMPTED, SHARDS
from experiments.methods import slug
from experiments.methods_table import percent
from experiments.tables import Results, read_figures, store_figures, write_table
from ovseg.clip.adapted import load_adapted
from ovseg.clip.names import CONFIG
from ovseg.clip.prompts import foreground_patches, vit_layout
from ovseg.clip.regions import cut_region
from ovseg.clip.save import WEIGHTS
from ovseg.core.options import FinetuneOptions, PromptOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import Runtime, from_environment
from ovseg.report.metric_tables import markdown
from ovseg.training.adapt import adapt

RESULTS, DOCUMENT = Path("experiments/prompts.json"), Path("docs/adaptation.md")
NAME = "python -m experiments.prompts"
ROWS: Mapping[str, Changes] = {
    "none": {"epochs": 0},
    "1 epoch, a tenth of the rate": {"epochs": 1, "lr": 3e-5},
    "1 epoch": {"epochs": 1},
    "3 epochs": {},
    "none, 32 px": {"epochs": 0},
    "3 epochs, 32 px": {},
    "none, 96 px": {"epochs": 0},
    "3 epochs, 96 px": {},
}
"""What each changes of section finetune; "3 epochs" is the finetuned CLIP of the run."""
CROP_SIZES = {"none, 32 px": 32, "3 epochs, 32 px": 32, "none, 96 px": 96, "3 epochs, 96 px": 96}
"""The side of the crops of rows whose CLIP sees another one than the base CLIP, which has 64 pixels."""
DEPTHS = (1, 3, 6)
GROUPS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what has no figures, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the trainings")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="rows to run")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="layers with prompts")
    parser.add_argument("--table", action="store_true", help="write the table from the figures that are stored")
    options = parser.parse_args(arguments)
    if not options.table:
        run(read_params(), options.rows, options.seeds, options.depths)
    write_table(DOCUMENT, NAME, lambda: table(read_figures(RESULTS, ROWS)))


def run(params: Params, rows: Sequence[str], seeds: Sequence[int], depths: Sequence[int]) -> None:
    """Train and measure, and store the mask accuracy of each group by depth, "0" for no prompts, as soon as it is known."""
    with TemporaryDirectory() as scratch:
        groups = write_groups_of_blanks(params, Path(scratch))
        for seed in seeds:
            for row in rows:
                folder = from_environment().work / "prompts" / f"{slug(row)}-{seed}"
                runtime = replace(from_environment(), work=folder / "work")
                stored = read_figures(RESULTS, rows).get(row, {}).get(str(seed), {})
                for depth in (0, *depths):
                    if str(depth) not in stored:
                        base = with_crop_size(BASE, size, folder / "base") if (size := CROP_SIZES.get(row)) else BASE
                        clip = trained_clip(params, ROWS[row], seed, depth, folder, runtime, base)
                        figures = with_all(measure_groups(params, clip, groups, runtime))
                        store_figures(RESULTS, row, seed, {str(depth): figures})
                        print(row, seed, depth, figures, flush=True)


def with_crop_size(base: Path, size: int, folder: Path) -> Path:
    """Write a CLIP for crops of another size to a folder, and return the folder; the positions of patches are interpolated."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    config = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    config["model_cfg"]["vision_cfg"]["image_size"] = size
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(base / WEIGHTS)
    resize_pos_embed(weights, open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    save_file(weights, folder / WEIGHTS)
    return folder


def trained_clip(
    params: Params,
    changes: Changes,
    seed: int,
    depth: int,
    folder: Path,
    runtime: Runtime,
    base: Path = BASE,
) -> Path:
    """Return the folder of a CLIP after finetuning and prompts of a depth, 0 for none; what is trained already is not again."""
    source = {"mask_source": params.propose.source, "mask_licence": params.propose.licence}
    finetune = FinetuneOptions.model_validate(params.finetune.model_dump() | dict(changes) | {"seed": seed})
    prompt = PromptOptions.model_validate(params.prompt.model_dump() | {"depth": depth or 1, "seed": seed})
    of_run = finetune == params.finetune and base == BASE
    tower = FINETUNED if of_run else folder / "finetune"
    if of_run and depth and prompt == params.prompt:
        return PROMPTED
    if not of_run:
        adapt(base, SHARDS, tower, runtime, finetune, params.crop, source)
    if not depth:
        return tower
    adapt(tower, SHARDS, folder / f"prompt-{depth}", runtime, prompt, params.crop, source)
    return folder / f"prompt-{depth}"


def write_groups_of_blanks(params: Params, folder: Path) -> dict[str, Path]:
    """Write the held-out annotations in groups of equal size by the fraction of blank patches, the smallest first."""
    annotations = params.heldout.annotations
    clip = load_adapted(BASE)
    patch = vit_layout(clip.model.visual).patch  # type: ignore[arg-type]
    blank = []
    for mask in heldout_masks(annotations):
        pixels = np.zeros((*mask.shape, 3), np.uint8)
        _, crop_mask = cut_region(pixels, mask, clip.size, None, params.crop.antialias)
        blank.append(1 - float(foreground_patches(crop_mask[None], patch).float().mean()))
    group_of = [""] * len(blank)
    for members in np.array_split(np.argsort(blank, kind="stable"), GROUPS):
        low, high = (f"{100 * blank[member]:.0f}" for member in (members[0], members[-1]))
        for member in members:
            group_of[member] = f"{low} to {high}%"
    files = write_groups(annotations, group_of, folder)
    return {name: files[name] for name in sorted(files, key=lambda name: int(name.split()[0]))}


def with_all(groups: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Return groups behind a group "all" of all their masks."""
    masks = sum(group["masks"] for group in groups.values())
    correct = sum(group["masks"] * group["mask_accuracy"] for group in groups.values())
    return {"all": {"masks": masks, "mask_accuracy": round(correct / masks, 6)}, **groups}


def table(results: Results) -> str:
    """Return mask accuracy in percent without prompts, and what prompts of each depth add to it, as a Markdown table."""
    header = ["finetuning", "prompts in"]
    rows = []
    for row, by_seed in results.items():
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        groups = list(runs[0]["0"])
        header = [*header[:2], *(name if name == "all" else f"{name} blank" for name in groups), "seeds"]
        for depth in sorted(runs[0], key=int):
            of_depth = [run for run in runs if depth in run]
            cells = []
            for group in groups:
                base = [run["0"][group]["mask_accuracy"] for run in of_depth]
                now = [run[depth][group]["mask_accuracy"] for run in of_depth]
                cells.append(percent(now) if depth == "0" else added(base, now))
            layers = "none" if depth == "0" else "1 layer" if depth == "1" else f"{depth} layers"
            rows.append([row if depth == "0" else "", layers, *cells, str(len(of_depth))])
    return markdown([header, *rows])


def added(base: Sequence[float], now: Sequence[float]) -> str:
    """Return the mean difference of fractions in points, with its standard deviation if there are several."""
    points = [100 * (b - a) for a, b in zip(base, now, strict=True)]
    return f"{mean(points):+.1f}" + (f" ± {stdev(points):.1f}" if len(points) > 1 else "")


if __name__ == "__main__":
    main()
