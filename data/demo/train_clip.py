"""Train the demo's stand-in for OpenAI's CLIP: `python -m data.demo.train_clip`, about 80 minutes on two CPU cores.

It is a small real open_clip model, trained from scratch with the CLIP loss on natural, unmasked images of one to three things
with their captions. It never sees a masked crop or a class label, so what it loses on masked crops is the gap that the paper
describes. The result is committed in data/demo/clip; README.md in this folder tells how it was made.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from open_clip.transformer import PatchDropout
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.demo.world.make import describe
from data.demo.world.nouns import nouns
from data.demo.world.scene import compose
from data.demo.world.wording import Entity
from ovseg.clip.load import load_clip
from ovseg.clip.save import save_clip
from ovseg.core.vocabulary import embed
from stages._run import run_stage

log = logging.getLogger("ovseg")

OUT = Path(__file__).parent / "clip"
CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
}
DRAWN_SIDE = 72  # side of the drawn images in pixels; each step takes another 64 x 64 crop of them
CAPTIONS = 4  # texts for each image
OPENERS = ("", "", "a photo of ", "photo of ", "This is a photo of ", "There is ", "a picture of ", "a close up of ")
PLACES = ("on", "on", "on the", "in front of", "near", "in the scene with", "over", "with")
LAST_STEPS = 0.2  # fraction of a phase's steps, the last ones, that see all patches


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own one-cycle learning rate schedule.

    Attributes:
        images: number of natural images to draw.
        steps: number of optimizer steps.
        attributes: fraction of nouns with their color or pattern in the text.
        backgrounds: fraction of texts that name the background.
        patch_dropout: fraction of patches that are left out in all but the last steps, which makes a step faster (FLIP,
            arXiv 2212.00794).
    """

    images: int
    steps: int
    attributes: float
    backgrounds: float
    patch_dropout: float


PHASES = (
    # rich texts first, which teach colors, backgrounds and low-level features quickly
    Phase(images=48_000, steps=5_000, attributes=0.5, backgrounds=0.55, patch_dropout=0.0),
    # then plain texts: if most texts give the color, colors alone tell the texts of a batch apart, and a dozen of nouns are
    # never learned
    Phase(images=96_000, steps=8_000, attributes=0.15, backgrounds=0.25, patch_dropout=0.5),
)


def main(_: object) -> None:
    """Write data/demo/clip and the accuracies that it reaches."""
    start = time.monotonic()
    measured = train(OUT, PHASES, batch_size=128, lr=1e-3)
    measured["minutes"] = round((time.monotonic() - start) / 60, 1)
    (OUT / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(measured)


def train(out: Path, phases: Sequence[Phase], batch_size: int, lr: float) -> dict[str, float]:
    """Train a CLIP, save it in open_clip's local-dir layout (half precision), and measure it.

    Args:
        out: folder of the model.
        phases: phases of the training, in order.
        batch_size: number of images in a step.
        lr: highest learning rate of AdamW in each phase.

    Returns:
        see `measure`.
    """
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG, output_dict=True)
    set_model_preprocess_cfg(model, asdict(PreprocessCfg(size=CONFIG["vision_cfg"]["image_size"])))
    cast(nn.Module, model.visual).compile()  # saves a fifth of the time
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    save = partial(save_clip, model, CONFIG, out, torch.float16)
    for number, phase in enumerate(phases):
        start = time.monotonic()
        images, contents, _ = draw_images(phase.images, first_seed=0)
        log.info("drew %d images in %.0f s", phase.images, time.monotonic() - start)
        rng = np.random.default_rng([number, 1])
        texts = [
            alt_text(entities, phase.attributes, phase.backgrounds, rng)
            for entities in contents
            for _ in range(CAPTIONS)
        ]
        tokens = tokenizer(texts).reshape(phase.images, CAPTIONS, -1)
        _optimize(model, torch.from_numpy(images), tokens, phase, batch_size, lr, number, save)
    save()
    return measure(out)


def natural_image(seed: int, things: int | None = None) -> tuple[NDArray[np.uint8], list[Entity], str]:
    """Draw a natural image of one to three things on one or two kinds of stuff.

    Args:
        seed: seed of the drawing.
        things: number of things; None draws it, too.

    Returns:
        uint8 `[72, 72, 3]`, its contents, and the noun of its first thing.
    """
    rng = np.random.default_rng(seed)
    thing_names = [n.name for n in nouns() if n.kind == "thing"]
    stuff_names = [n.name for n in nouns() if n.kind == "stuff"]
    number = things or int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    chosen = [str(n) for n in rng.choice(thing_names, number, replace=False)]
    ground = [str(n) for n in rng.choice(stuff_names, int(rng.choice([1, 2], p=[0.7, 0.3])), replace=False)]
    scene = compose(chosen, ground, 96, 96, rng)
    image = Image.fromarray(scene.image).resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image), describe(scene), chosen[0]


def draw_images(
    number: int, first_seed: int, things: int | None = None
) -> tuple[NDArray[np.uint8], list[list[Entity]], list[str]]:
    """Draw natural images on all CPU cores: uint8 `[N, 72, 72, 3]`, their contents, and the nouns of their first things."""
    seeds = range(first_seed, first_seed + number)
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(partial(natural_image, things=things), seeds, chunksize=256))
    images, contents, first_things = zip(*drawn, strict=True)
    return np.stack(images), list(contents), list(first_things)


def alt_text(contents: Sequence[Entity], attributes: float, backgrounds: float, rng: np.random.Generator) -> str:
    """Write a text as web pages have beside an image: "a small red star on grass", "photo of two cats and a key".

    Args:
        contents: contents of the image.
        attributes, backgrounds: see `Phase`.
        rng: source of all choices.
    """
    things = [_phrase(entity, attributes, rng) for entity in contents if entity.kind == "thing"]
    stuff = [_synonym(entity, rng)[0] for entity in contents if entity.kind == "stuff"]
    rng.shuffle(things)
    if len(things) > 1 and rng.random() < 0.15:
        things = things[:-1]
    text = str(rng.choice(OPENERS)) + " and ".join(things)
    if stuff and rng.random() < backgrounds:
        text += f" {rng.choice(PLACES)} {' and '.join(stuff[: int(rng.integers(1, len(stuff) + 1))])}"
    return text + str(rng.choice(["", "."]))


def _phrase(entity: Entity, attributes: float, rng: np.random.Generator) -> str:
    name, plural = _synonym(entity, rng)
    words = [entity.colour] if entity.colour and rng.random() < attributes else []
    words += [entity.pattern] if entity.pattern not in (None, "plain") and rng.random() < attributes else []
    words += [str(rng.choice(["small", "large", "medium"]))] if rng.random() < attributes / 4 else []
    rng.shuffle(words)
    if entity.count > 1 and plural:
        return " ".join(["two" if entity.count == 2 else "several", *words, plural])
    return " ".join([str(rng.choice(["a", "a", "the", "one"])), *words, name])


def _synonym(entity: Entity, rng: np.random.Generator) -> tuple[str, str | None]:
    """Choose the name or a synonym of an entity, singular and plural."""
    noun = next(n for n in nouns() if n.name == entity.noun)
    options = [(noun.name, noun.plural)] * 3 + list(noun.synonyms)
    return options[int(rng.integers(len(options)))]


def _optimize(
    model: nn.Module,
    images: Tensor,
    tokens: Tensor,
    phase: Phase,
    batch_size: int,
    lr: float,
    seed: int,
    save: Callable[[], None],
) -> None:
    """Run the steps of one phase; `save` is called every 500 steps."""
    steps = phase.steps
    biases = [p for p in model.parameters() if p.ndim < 2]
    weights = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": biases, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    visual = cast(nn.Module, model.visual)
    visual.patch_dropout = PatchDropout(phase.patch_dropout) if phase.patch_dropout else nn.Identity()
    clip_loss = open_clip.ClipLoss()
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    rng = np.random.default_rng(seed)
    order, start = np.empty(0, dtype=np.int64), time.monotonic()
    for step in range(steps):
        if step % 500 == 0:
            save()
        if step == int(steps * (1 - LAST_STEPS)):
            visual.patch_dropout = nn.Identity()
        if len(order) < batch_size:
            order = rng.permutation(len(images))
        batch, order = order[:batch_size], order[batch_size:]
        x, y = rng.integers(0, DRAWN_SIDE - 64 + 1, 2)
        views = images[batch][:, y : y + 64, x : x + 64].permute(0, 3, 1, 2) / 255
        if rng.random() < 0.5:
            views = views.flip(-1)
        texts = tokens[batch, torch.from_numpy(rng.integers(0, CAPTIONS, batch_size))]
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # the fastest backward pass on a CPU
            output = model((views - mean) / std, texts)
        loss = clip_loss(output["image_features"].float(), output["text_features"].float(), output["logit_scale"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # type: ignore[operator]
        if step % 50 == 49:
            rate = (step + 1) / (time.monotonic() - start)
            message = "step %d/%d loss %.3f, %.2f steps/s, ETA %.0f s"
            log.info(message, step + 1, steps, loss.item(), rate, (steps - step - 1) / rate)


def measure(folder: Path, number: int = 1000) -> dict[str, float]:
    """Measure how often a CLIP names the thing in fresh natural images of a single thing.

    Args:
        folder: folder of the CLIP.
        number: number of images.

    Returns:
        top-1 accuracy in [0, 1] with the names of all things ("top1_things") and with all nouns ("top1_all").
    """
    clip = load_clip(f"local-dir:{folder}")
    images, _, truth = draw_images(number, first_seed=900_000_000, things=1)
    names = [n.name for n in nouns()]
    is_thing = [n.kind == "thing" for n in nouns()]
    edge = (DRAWN_SIDE - clip.size) // 2
    views = torch.from_numpy(images[:, edge : edge + clip.size, edge : edge + clip.size]).permute(0, 3, 1, 2)
    scores = clip.encode_crops(views) @ embed(names, clip.encode_texts, "vild", 256).T
    return {
        "top1_things": _top1(scores.masked_fill(~torch.tensor(is_thing), -2), names, truth),
        "top1_all": _top1(scores, names, truth),
    }


def _top1(scores: Tensor, names: Sequence[str], truth: Sequence[str]) -> float:
    return float(np.mean([names[i] == t for i, t in zip(scores.argmax(1).tolist(), truth, strict=True)]))


if __name__ == "__main__":
    run_stage(main)
