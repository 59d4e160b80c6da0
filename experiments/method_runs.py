"""One row of the leaderboard: its training, its evaluation and the figures of both."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file

from experiments.method_rows import Changes, Method
from experiments.tables import Figures, locked
from ovseg.clip.adapted import load_adapted
from ovseg.clip.region_settings import read_settings
from ovseg.core.options import CropOptions, FinetuneOptions, PromptOptions, SelectOptions
from ovseg.core.params import Params
from ovseg.engine.runtime import Runtime, from_environment
from ovseg.evaluation.benchmark_report import evaluate_benchmark
from ovseg.evaluation.calibrate import calibrate
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.mining.select import select_pairs
from ovseg.mining.shards import write_shards
from ovseg.training.adapt import adapt
from ovseg.training.region_training import RunFolders, adapt_regions
from ovseg.training.text_prompt_training import learn_text_prompts

DATA, MODELS, SHARDS = Path("data"), Path("models"), Path("shards")
CANDIDATES = DATA / "candidates"
NETWORK, BASE, FINETUNED, PROMPTED = (MODELS / name for name in ("proposal_network", "base", "finetune", "prompt"))


def train_and_evaluate(params: Params, method: Method, seed: int, folder: Path, shards: Path | None = None) -> Figures:
    """Train one row in `folder`, choose its weight on held-out images, and evaluate it on every benchmark.

    Args:
        params: the parameters of the run.
        method: the row.
        seed: the seed of its trainings.
        folder: the folder of its models and figures.
        shards: what it trains on; None for the shards of `method.pairs`.

    Returns:
        "mask_accuracy" (of all, annotated and other nouns) and "benchmarks" (the metrics of the ensemble), as fractions;
        "choice", "steps", "seconds" (wall clock of the training) and "trained_parameters".
    """
    runtime = from_environment()
    figures = train_and_measure(params, method, seed, folder, runtime, shards)
    return figures | evaluate(params, method, trained_clip(method, folder), folder, runtime)


def train_and_measure(
    params: Params, method: Method, seed: int, folder: Path, runtime: Runtime, shards: Path | None = None
) -> Figures:
    """Train one row and measure its CLIP alone; see `train_and_evaluate`, whose "benchmarks" and "choice" are missing."""
    begin = time.perf_counter()
    if shards is None:
        shards = SHARDS if method.pairs == "mined" else annotated_shards(params, folder.parent, runtime)
    steps = train(params, method, seed, folder, shards, runtime)
    seconds = round(time.perf_counter() - begin)
    clip = trained_clip(method, folder)
    return {
        "mask_accuracy": accuracies(
            measure(params, clip, params.heldout.annotations, runtime, crop_of(params, method))
        ),
        "trained_parameters": trained_parameters(clip),
        "steps": steps,
        "seconds": seconds if steps else 0,
    }


def read_run(params: Params, method: Method) -> Figures:
    """Read the figures of a row that is a model of the run in this folder; the time of its training is not known."""
    assert method.of_run is not None
    clip, reports = MODELS / method.of_run, Path("reports")
    measured = json.loads((reports / "measure" / method.of_run / "metrics.json").read_text(encoding="utf-8"))["model"]
    files = {name: reports / "evaluate" / name / "metrics.json" for name in params.evaluate.benchmarks}
    models = [FINETUNED] if method.of_run == "finetune" else [FINETUNED, PROMPTED] if method.of_run == "prompt" else []
    return {
        "mask_accuracy": accuracies(measured),
        **read_benchmarks(files, method.of_run),
        "trained_parameters": trained_parameters(clip),
        "steps": count_steps(models),
    }


def trained_clip(method: Method, folder: Path) -> Path:
    """Return the folder of the CLIP that a row segments with."""
    if method.prompt is not None:
        return folder / "prompt"
    return BASE if method.finetune is None else folder / "finetune"


def train(params: Params, method: Method, seed: int, folder: Path, shards: Path, runtime: Runtime) -> int:
    """Train the steps of a method that it has, and return the number of optimizer steps."""
    crop = crop_of(params, method)
    source = {"mask_source": params.propose.source, "mask_licence": params.propose.licence}
    steps, init = [], BASE
    if method.finetune is not None:
        teacher = {"teacher": FINETUNED} if method.teacher else {}
        values = params.finetune.model_dump() | dict(method.finetune) | teacher | {"seed": seed}
        finetune, out = FinetuneOptions.model_validate(values), folder / "finetune"
        if finetune.method == "text_prompts":
            learn_text_prompts(init, shards, out, runtime, finetune, crop, source)
        elif finetune.method == "crops":
            adapt(init, shards, out, runtime, finetune, crop, source)
        else:
            run_folders = RunFolders(DATA / "index", DATA / "proposals", DATA / "pairs", params.index.images)
            adapt_regions(init, run_folders, out, runtime, finetune, crop, source)
        steps, init = [out], out
    if method.prompt is not None:
        prompt = PromptOptions.model_validate(params.prompt.model_dump() | dict(method.prompt) | {"seed": seed})
        adapt(init, shards, folder / "prompt", runtime, prompt, crop, source)
        steps = [*steps, folder / "prompt"]
    return count_steps(steps)


def count_steps(models: Sequence[Path]) -> int:
    """Count the optimizer steps that trained all of some models."""
    manifests = [json.loads((model / "step.json").read_text(encoding="utf-8")) for model in models]
    return sum(manifest["counts"].get("steps", 0) for manifest in manifests)


def annotated_shards(params: Params, folder: Path, runtime: Runtime) -> Path:
    """Write shards of the annotated masks of the run, and return their folder; nothing is done if they are there."""
    return selected_shards(params, CANDIDATES, {"annotated_fraction": 1.0}, folder, "annotated", runtime)


def selected_shards(
    params: Params, candidates: Path, changes: Changes, folder: Path, name: str, runtime: Runtime
) -> Path:
    """Select pairs in another way and write their shards; nothing is done if they are there.

    Args:
        params: the parameters of the run.
        candidates: the folder of the table `candidates`.
        changes: what is changed of the section select.
        folder: where the folders NAME-pairs and NAME-shards are.
        name: NAME.
        runtime: devices, workers, scratch folder.

    Returns:
        the folder of the shards.
    """
    pairs, shards = folder / f"{name}-pairs", folder / f"{name}-shards"
    select = SelectOptions.model_validate(params.select.model_dump() | dict(changes))
    with locked(shards):
        select_pairs(candidates, DATA / "proposals", pairs, runtime, select)
        write_shards(DATA / "index", params.index.images, DATA / "proposals", pairs, shards, runtime, params.shards)
    return shards


def crop_of(params: Params, method: Method) -> CropOptions:
    """Return the crop recipe of a method, which its training, mask accuracy and benchmarks share."""
    return params.crop.model_copy(update=dict(method.crop))


def measure(params: Params, clip: Path, annotations: Path, runtime: Runtime, crop: CropOptions) -> dict[str, float]:
    """Measure the mask accuracy of a CLIP on annotated masks of held-out images, see `measure_mask_accuracy`."""
    heldout = params.heldout
    return measure_mask_accuracy(
        {"model": load_adapted(clip, runtime.devices[0])},
        heldout.images,
        annotations,
        fill=crop.fill,
        antialias=crop.antialias,
        templates=heldout.templates,
        batch_size=runtime.batch_size,
        limit=heldout.limit,
        orientation=heldout.orientation,
    )["model"]


def accuracies(measured: Mapping[str, float]) -> Figures:
    """Return the mask accuracy of all, annotated and other nouns."""
    names = {"all": "", "annotated": "_annotated", "not annotated": "_not_annotated"}
    return {name: round(measured[f"mask_accuracy{suffix}"], 6) for name, suffix in names.items()}


def evaluate(params: Params, method: Method, clip: Path, folder: Path, runtime: Runtime) -> Figures:
    """Evaluate a CLIP on every benchmark, with the method's own weight and threshold or calibrated ones."""
    clips = {"model": clip}
    options = params.segment.model_copy(update=dict(method.segment))
    crop = crop_of(params, method)
    if method.weight is None:
        calibrate(
            NETWORK,
            clips,
            folder / "calibrate",
            folder / "choice",
            runtime,
            params.calibrate,
            options=options,
            crop=crop,
        )
    for name in params.evaluate.benchmarks:
        evaluate_benchmark(
            params.evaluate.folder / name,
            NETWORK,
            clips,
            folder / "choice",
            folder / "evaluate" / name,
            folder / "reports" / name,
            runtime,
            options=options,
            crop=crop,
            mask_threshold=method.mask_threshold,
            weight=method.weight,
            limit=params.evaluate.limit,
            missing=params.evaluate.missing,
        )
    files = {name: folder / "reports" / name / "metrics.json" for name in params.evaluate.benchmarks}
    return read_benchmarks(files, "model")


def read_benchmarks(files: Mapping[str, Path], model: str) -> Figures:
    """Return "benchmarks", the metrics of a model's ensemble on each benchmark, and "choice"."""
    benchmarks, choice = {}, {}
    for name, path in files.items():
        figures = json.loads(path.read_text(encoding="utf-8"))["models"][model]
        benchmarks[name] = {key: value for key, value in figures["ensemble"].items() if isinstance(value, float)}
        benchmarks[name]["clip_miou"], choice = figures["clip"]["miou"], figures["choice"]
    return {"benchmarks": benchmarks, "choice": choice}


def trained_parameters(clip: Path) -> int:
    """Count the numbers of a CLIP's files that differ from the base CLIP's, or are not among them."""
    count = 0
    for file in clip.glob("*.safetensors"):
        base = load_file(BASE / file.name) if (BASE / file.name).is_file() else {}
        for name, tensor in load_file(file).items():
            count += int((tensor != base[name]).sum()) if name in base else tensor.numel()
    return count + sum(len(row) for row in read_settings(clip).log_bias or ())
