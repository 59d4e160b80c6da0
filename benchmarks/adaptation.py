"""The paper's ladder on the demo: mask accuracy of each way to adapt CLIP, over several random seeds.

    dvc repro && python -m benchmarks.adaptation        about an hour on two cores; after a kill it continues

Reads params.yaml, models/base, shards/ and the mined tables; writes the table in docs/adaptation.md and
benchmarks/results/adaptation-<machine>.json. The seed determines the order of samples, the crops and new prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

from benchmarks.results import FOLDER, machine, slug, versions
from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.options import Fill, SelectOptions, ShardsOptions
from ovseg.core.params import Params, read_params
from ovseg.engine.runtime import from_environment, work_folder
from ovseg.engine.terminal import log_to_stderr
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.mining.select import select_pairs
from ovseg.mining.shards import write_shards
from ovseg.training.adapt import adapt

DOC = Path("docs/adaptation.md")
BEGIN, END = "<!-- table: python -m benchmarks.adaptation -->", "<!-- end of table -->"
GROUPS = {
    "annotated": "mask_accuracy_annotated",
    "not annotated": "mask_accuracy_not_annotated",
    "all": "mask_accuracy",
}
Scores = Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only",
        nargs="+",
        default=None,
        metavar="NAME",
        help="train and measure only these adaptations, and write nothing",
    )
    arguments = parser.parse_args()
    log_to_stderr()
    params = read_params()
    base = Path("models/base")
    scores: dict[str, list[Scores]] = {
        "base, unmasked crops": [_measure(base, params, "keep")],
        "base": [_measure(base, params, params.crop.fill)],
    }
    for seed in arguments.seeds:
        for name, folder in _train(params, seed, arguments.only).items():
            scores.setdefault(name, []).append(_measure(folder, params, params.crop.fill))
            print(f"seed {seed}, {name}: {scores[name][-1]}", flush=True)
    print(table(scores))
    if not arguments.only:
        _write(scores, arguments.seeds)


def _train(params: Params, seed: int, only: list[str] | None) -> dict[str, Path]:
    """Train each adapted CLIP that does not exist yet; return their folders by name."""
    base, runtime = Path("models/base"), from_environment()
    work = _work(params) / str(seed)
    finetune = params.finetune.model_copy(update={"seed": seed})
    prompt = params.prompt.model_copy(update={"seed": seed})
    prompt_alone = prompt.model_copy(update={"tower_lr": None})
    both = prompt.model_copy(update={"tower_lr": finetune.lr})
    mined = Path("shards")
    ladder = (
        ("MPT", base, mined, prompt_alone),
        ("FT", base, mined, finetune),
        ("FT then MPT", work / "FT", mined, prompt_alone),
        ("MPT then FT", work / "MPT", mined, finetune),
        ("both at once", base, mined, both),
        ("FT on ground-truth pairs", base, None, finetune),
    )
    folders = {}
    for name, init, shards, options in ladder:
        if only is None or name in only:
            source = {"mask_source": params.propose.source, "mask_licence": params.propose.licence}
            adapt(init, shards or _ground_truth(params), work / name, runtime, options, params.crop, source)
            folders[name] = work / name
    return folders


def _work(params: Params) -> Path:
    """The folder of the adapted CLIPs for these parameters, shards and base; delete it to train them again."""
    inputs = {
        "base": hashing.sha256_path(Path("models/base")),
        "shards": tables.read_step_manifest(Path("shards"))["fingerprint"],
    }
    sections = {"finetune": vars(params.finetune), "prompt": vars(params.prompt), "crop": vars(params.crop)}
    return work_folder() / "adaptation" / hashing.fingerprint(**inputs, **sections)[:12]


def _ground_truth(params: Params) -> Path:
    """Write shards of annotated masks with their class names (select.annotated_fraction=1)."""
    work, runtime = _work(params), from_environment()
    pairs, out = work / "annotated-pairs", work / "annotated-shards"
    select = SelectOptions(annotated_fraction=1.0, seed=params.select.seed)
    select_pairs(Path("data/candidates"), Path("data/proposals"), pairs, runtime, select)
    write_shards(
        Path("data/index"),
        Path(params.index.images),
        Path("data/proposals"),
        pairs,
        out,
        runtime,
        ShardsOptions(min_shards=params.shards.min_shards),
    )
    return out


def _measure(folder: Path, params: Params, fill: Fill) -> Scores:
    runtime = from_environment()
    clip = load_adapted(folder, runtime.devices[0])
    return measure_mask_accuracy(
        {"": clip},
        Path(params.heldout.images),
        Path(params.heldout.annotations),
        fill=fill,
        antialias=params.crop.antialias,
        templates=params.heldout.templates,
        batch_size=runtime.batch_size,
        limit=params.heldout.limit,
        orientation=params.heldout.orientation,
    )[""]


def table(scores: Mapping[str, list[Scores]]) -> str:
    """Return a Markdown table with a row for each adaptation: mean and standard deviation over seeds, in percent."""
    lines = [f"| CLIP | {' | '.join(f'{group} nouns' for group in GROUPS)} |", "|---|" + "---:|" * len(GROUPS)]
    for name, runs in scores.items():
        cells = [_cell([run[key] for run in runs]) for key in GROUPS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(accuracies: list[float]) -> str:
    spread = f" ± {100 * stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * mean(accuracies):.1f}{spread}"


def _write(scores: Mapping[str, list[Scores]], seeds: list[int]) -> None:
    text = DOC.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOC.write_text(f"{before}\n{table(scores)}\n{after}", encoding="utf-8")
    record = {
        "command": f"python -m benchmarks.adaptation --seeds {' '.join(map(str, seeds))}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "scores": scores,
    }
    (FOLDER / f"adaptation-{slug()}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
