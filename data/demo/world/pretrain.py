"""The demo's stand-in for OpenAI's CLIP: a small real open_clip model, trained from scratch with the CLIP loss.

It sees natural, unmasked images of one to three things with their captions, and never a masked crop or a class label:
what it loses on masked crops is then the same gap that the paper speaks of.
"""

from __future__ import annotations

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

from data.demo.world.make import seen_in
from data.demo.world.nouns import nouns
from data.demo.world.scene import compose
from data.demo.world.wording import Seen
from ovseg.clip.load import load_clip
from ovseg.clip.save import save_clip
from ovseg.core.vocabulary import embed

log = logging.getLogger("ovseg")

CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
}
DRAWN = 72  # images are kept a little larger than the model's input: each step crops another 64 x 64 of them
CAPTIONS = 4  # of each image
OPENERS = ("", "", "a photo of ", "photo of ", "This is a photo of ", "There is ", "a picture of ", "a close up of ")
PLACES = ("on", "on", "on the", "in front of", "near", "in the scene with", "over", "with")
WHOLE = 0.2  # of the steps, the last ones, see whole images


@dataclass(frozen=True)
class Phase:
    """A part of the training, with a learning rate that rises and falls.

    Attributes:
        images: how many natural images are drawn.
        steps: of the optimiser.
        looks: share of nouns with their colour or pattern.
        grounds: share of texts that name the ground.
        dropped: share of patches that are left out but for the last steps: two steps in the time of one (FLIP, arXiv
            2212.00794).
    """

    images: int
    steps: int
    looks: float
    grounds: float
    dropped: float


PHASES = (
    # rich texts first: colours and grounds are learned at once, and with them what an image is
    Phase(images=48_000, steps=5_000, looks=0.5, grounds=0.55, dropped=0.0),
    # then plain ones: where most texts give the colour, a batch is told apart without the nouns, and a dozen of them stay
    # unknown
    Phase(images=96_000, steps=8_000, looks=0.15, grounds=0.25, dropped=0.5),
)


def natural(seed: int, things: int | None = None) -> tuple[NDArray[np.uint8], list[Seen], str]:
    """A natural image of one to three things: uint8 `[72, 72, 3]`, what is in it, and the noun of its first thing."""
    rng = np.random.default_rng(seed)
    every = [n.name for n in nouns() if n.kind == "thing"]
    stuff = [n.name for n in nouns() if n.kind == "stuff"]
    number = things or int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    chosen = [str(n) for n in rng.choice(every, number, replace=False)]
    ground = [str(n) for n in rng.choice(stuff, int(rng.choice([1, 2], p=[0.7, 0.3])), replace=False)]
    scene = compose(chosen, ground, 96, 96, rng)
    image = Image.fromarray(scene.image).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
    return np.asarray(image), seen_in(scene), chosen[0]


def draw(
    number: int, first_seed: int, things: int | None = None
) -> tuple[NDArray[np.uint8], list[list[Seen]], list[str]]:
    """That many natural images `[N, 72, 72, 3]`, what is in them, and their first nouns, drawn by all cores."""
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(partial(natural, things=things), range(first_seed, first_seed + number), chunksize=256))
    return np.stack([m[0] for m in made]), [m[1] for m in made], [m[2] for m in made]


def pretrain(out: Path, phases: Sequence[Phase], batch: int, lr: float) -> dict[str, float]:
    """Train, save in open_clip's local-dir layout (half precision), and measure.

    Args:
        out: folder of the model.
        phases: one after the other.
        batch: images in a step.
        lr: the highest, of AdamW with a one-cycle schedule in each phase.

    Returns:
        accuracies in [0, 1] on 1,000 fresh images of a single thing: "top1_things" among all things, "top1_all" among
        all nouns.
    """
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG, output_dict=True)
    set_model_preprocess_cfg(model, asdict(PreprocessCfg(size=CONFIG["vision_cfg"]["image_size"])))
    cast(nn.Module, model.visual).compile()  # saves a fifth of the time
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    save = partial(save_clip, model, CONFIG, out, torch.float16)
    for number, phase in enumerate(phases):
        begun = time.monotonic()
        images, seen, _ = draw(phase.images, first_seed=0)
        log.info("drew %d images in %.0f s", phase.images, time.monotonic() - begun)
        rng = np.random.default_rng([number, 1])
        texts = [alt_text(what, phase.looks, phase.grounds, rng) for what in seen for _ in range(CAPTIONS)]
        tokens = tokenizer(texts).reshape(phase.images, CAPTIONS, -1)
        _optimise(model, torch.from_numpy(images), tokens, phase, batch, lr, number, save)
    save()
    return measure(out)


def alt_text(seen: Sequence[Seen], looks: float, grounds: float, rng: np.random.Generator) -> str:
    """A text as the web puts beside an image: "a small red star on grass", "photo of two cats and a key"."""
    things = [_phrase(what, looks, rng) for what in seen if what.kind == "thing"]
    stuff = [_word(what, rng)[0] for what in seen if what.kind == "stuff"]
    rng.shuffle(things)
    if len(things) > 1 and rng.random() < 0.15:
        things = things[:-1]
    text = str(rng.choice(OPENERS)) + " and ".join(things)
    if stuff and rng.random() < grounds:
        text += f" {rng.choice(PLACES)} {' and '.join(stuff[: int(rng.integers(1, len(stuff) + 1))])}"
    return text + str(rng.choice(["", "."]))


def _phrase(what: Seen, looks: float, rng: np.random.Generator) -> str:
    name, plural = _word(what, rng)
    look = [what.colour] if what.colour and rng.random() < looks else []
    look += [what.pattern] if what.pattern not in (None, "plain") and rng.random() < looks else []
    look += [str(rng.choice(["small", "large", "medium"]))] if rng.random() < looks / 4 else []
    rng.shuffle(look)
    if what.count > 1 and plural:
        return " ".join(["two" if what.count == 2 else "several", *look, plural])
    return " ".join([str(rng.choice(["a", "a", "the", "one"])), *look, name])


def _word(what: Seen, rng: np.random.Generator) -> tuple[str, str | None]:
    noun = next(n for n in nouns() if n.name == what.noun)
    same = [(noun.name, noun.plural)] * 3 + list(noun.synonyms)
    return same[int(rng.integers(len(same)))]


def _optimise(
    model: nn.Module,
    images: Tensor,
    tokens: Tensor,
    phase: Phase,
    batch: int,
    lr: float,
    seed: int,
    save: Callable[[], None],
) -> None:
    steps = phase.steps
    plain = [p for p in model.parameters() if p.ndim < 2]
    heavy = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": heavy, "weight_decay": 0.1}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    visual = cast(nn.Module, model.visual)
    visual.patch_dropout = PatchDropout(phase.dropped) if phase.dropped else nn.Identity()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.08)
    loss_of = open_clip.ClipLoss()
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    rng = np.random.default_rng(seed)
    order, begun = np.empty(0, dtype=np.int64), time.monotonic()
    for step in range(steps):
        if step % 500 == 0:
            save()
        if step == int(steps * (1 - WHOLE)):
            visual.patch_dropout = nn.Identity()
        if len(order) < batch:
            order = rng.permutation(len(images))
        chosen, order = order[:batch], order[batch:]
        x, y = rng.integers(0, DRAWN - 64 + 1, 2)
        views = images[chosen][:, y : y + 64, x : x + 64].permute(0, 3, 1, 2) / 255
        if rng.random() < 0.5:
            views = views.flip(-1)
        words = tokens[chosen, torch.from_numpy(rng.integers(0, CAPTIONS, batch))]
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # its backward is the faster one here
            found = model((views - mean) / std, words)
        loss = loss_of(found["image_features"].float(), found["text_features"].float(), found["logit_scale"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # type: ignore[operator]
        if step % 50 == 49:
            rate = (step + 1) / (time.monotonic() - begun)
            log.info(
                "step %d/%d loss %.3f, %.2f steps/s, ETA %.0f s",
                step + 1,
                steps,
                loss.item(),
                rate,
                (steps - step - 1) / rate,
            )


def measure(folder: Path, number: int = 1000) -> dict[str, float]:
    """Top-1 accuracy in naming the thing of fresh natural images of a single one, among things and among all nouns."""
    clip = load_clip(f"local-dir:{folder}")
    images, _, truth = draw(number, first_seed=900_000_000, things=1)
    names = [n.name for n in nouns()]
    things = [n.kind == "thing" for n in nouns()]
    edge = (DRAWN - clip.size) // 2
    views = torch.from_numpy(images[:, edge : edge + clip.size, edge : edge + clip.size]).permute(0, 3, 1, 2)
    scores = clip.encode_crops(views) @ embed(names, clip.encode_texts, "vild", 256).T
    return {
        "top1_things": _top1(scores.masked_fill(~torch.tensor(things), -2), names, truth),
        "top1_all": _top1(scores, names, truth),
    }


def _top1(scores: Tensor, names: Sequence[str], truth: Sequence[str]) -> float:
    return float(np.mean([names[i] == t for i, t in zip(scores.argmax(1).tolist(), truth, strict=True)]))
