"""CLIP's image tower on a CPU in every arithmetic: its speed, and whether its answers stay those of float32.

    python -m benchmarks encoder          about 2 minutes on two cores
    python -m benchmarks encoder --all    torch.compile too, which needs a C++ compiler; some 2 minutes more

The demo's CLIP on the regions of drawn images, and ViT-B-16 with random weights on a few of them, in passes of 32 crops:

    open_clip    the tower as open_clip makes it; in fp32 the reference's own way, and in bf16 whatever the processor
    ours         packed blocks, `clip.cpu_blocks`; in bf16 what `core.arithmetic.data_type` makes of it here
    int8         weights in 8 bits for each output, activations in 8 bits for each product as they come ("dynamic"), by oneDNN
    no blanks    nothing attends to patches without a foreground pixel: what leaving them out would answer; not timed
    compiled     torch.compile with frozen weights, of blocks with one QKV product and fused attention

Speed is the best pass, the variants in turns. Answers are compared with those of the first row: the fraction of the regions
whose most similar noun of the demo's is the same, and the cosine of their embeddings.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.inputs import ROOT
from benchmarks.results import Options, Result, Row, Target
from data.demo.world.make import make_split
from data.demo.world.nouns import nouns
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.passes import CROPS_PER_PASS
from ovseg.core import crops, masks
from ovseg.core.images import decode_image

IMAGES, ROUNDS, TIMED, LARGE = 500, 5, 4, "ViT-B-16"
DEMO = f"local-dir:{ROOT / 'data' / 'demo' / 'clip'}"
REFERENCE, PLAIN_BF16, OURS, NO_BLANKS = "open_clip, fp32", "open_clip, bf16", "ours, bf16", "no blanks, fp32"
BLANK = 0.01  # largest distance of a background pixel from the mean color, which is rounded to 8 bits, in standard deviations

Encoder = Callable[[Tensor], Tensor]
"""Embeds normalized crops, float32 `[32, 3, S, S]`."""


class Compared(NamedTuple):
    """A variant of one model.

    Attributes:
        first: seconds of the first pass, in which weights are packed or code is compiled.
        seconds: the best pass.
        embeddings: unit vectors of all crops, `[N, D]`.
    """

    first: float
    seconds: float
    embeddings: Tensor


def run(options: Options) -> Result:
    make_split(options.folder / "drawn", "val", 8 if options.smoke else IMAGES, seed=1)
    rounds = 1 if options.smoke else ROUNDS
    demo = {precision: load_clip(DEMO, precision=precision) for precision in ("fp32", "bf16")}
    texts = demo["fp32"].embed_names([noun.name for noun in nouns()], "vild")
    batches = regions(options.folder / "drawn", demo["fp32"])
    small = compare(variants(demo, options.all_variants), batches, rounds)
    large: dict[str, Compared] = {}
    if not options.smoke:
        clips = {precision: load_clip(LARGE, "random", precision=precision) for precision in ("fp32", "bf16")}
        few = regions(options.folder / "drawn", clips["fp32"], CROPS_PER_PASS)
        encoders = variants(clips, options.all_variants)
        if clips["bf16"].dtype != torch.bfloat16:
            del encoders[PLAIN_BF16]  # minutes for each pass on a processor without units
        large = compare(encoders, few, rounds)
    rows = [row(name, small, large, texts) for name in small]
    agreement, cosine = (float(next(r for r in rows if r["variant"] == OURS)[c]) for c in ("same word", "least cosine"))
    targets = [
        Target("ours bf16 / open_clip fp32, demo's CLIP", small[REFERENCE].seconds / small[OURS].seconds, 3.0),
        Target("same word, ours bf16", agreement, 0.99),
        Target("least cosine, ours bf16", cosine, 0.999),
    ]
    patch: Any = demo["fp32"].model.visual.conv1.kernel_size[0]  # type: ignore[union-attr, index]
    setup: dict[str, str | float] = {
        "regions": len(small[REFERENCE].embeddings),
        "nouns": len(texts),
        "blank patches": float(blank_patches(torch.cat(batches), patch).float().mean()),
        "threads": torch.get_num_threads(),
    }
    return Result(setup, rows, targets)


def row(name: str, small: dict[str, Compared], large: dict[str, Compared], texts: Tensor) -> Row:
    reference, variant = small[REFERENCE], small[name]
    words, own_words = ((of.embeddings @ texts.T).argmax(1) for of in (reference, variant))
    cosines = (reference.embeddings * variant.embeddings).sum(1)
    timed = name != NO_BLANKS
    line: Row = {
        "variant": name,
        "crops/s": CROPS_PER_PASS / variant.seconds if timed else "",
        "ratio": reference.seconds / variant.seconds if timed else "",
        "same word": float((words == own_words).float().mean()),
        "least cosine": float(cosines.min()),
        "mean cosine": float(cosines.mean()),
        "first pass, s": variant.first,
    }
    if large:
        wanted, found = large[REFERENCE], large.get(name)
        line[f"{LARGE}, ratio"] = wanted.seconds / found.seconds if found and timed else ""
        line[f"{LARGE}, least cosine"] = float((wanted.embeddings * found.embeddings).sum(1).min()) if found else ""
    return line


def variants(clips: dict[str, Clip], with_compiled: bool) -> dict[str, Encoder]:
    """The encoders by name, from the same CLIP in fp32 and bf16."""
    encoders: dict[str, Encoder] = {}
    for precision, clip in clips.items():
        plain = clip if precision == "fp32" else _in_bfloat16(clips["fp32"])
        encoders[f"open_clip, {precision}"] = _tower(plain, packed=False)
        encoders[f"ours, {precision}"] = _tower(clip, packed=True)
    encoders["int8, dynamic"] = _int8(clips["fp32"])
    encoders[NO_BLANKS] = _no_blanks(clips["fp32"])
    if with_compiled:
        encoders["compiled, bf16"] = _compiled(clips["bf16"])
    return encoders


@torch.inference_mode()
def compare(encoders: dict[str, Encoder], batches: list[Tensor], rounds: int) -> dict[str, Compared]:
    """Encode all batches once with each variant, then time some of them in turns."""
    seconds = {name: [_seconds(encode, batches[0])] for name, encode in encoders.items()}
    embeddings = {
        name: F.normalize(torch.cat([encode(batch).float() for batch in batches]), dim=-1)
        for name, encode in encoders.items()
    }
    for _ in range(rounds):
        for name, encode in encoders.items():
            seconds[name] += [_seconds(encode, batch) for batch in batches[:TIMED]]
    return {name: Compared(first, min(others), embeddings[name]) for name, (first, *others) in seconds.items()}


def _seconds(encode: Encoder, batch: Tensor) -> float:
    start = time.perf_counter()
    encode(batch)
    return time.perf_counter() - start


def regions(folder: Path, clip: Clip, limit: int | None = None) -> list[Tensor]:
    """The crops of drawn images' segments, normalized, in whole passes; at most `limit` crops."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    color = crops.fill_color("mean", clip.mean.tolist())
    segments = truth["annotations"][:limit]
    cut = []
    for segment in segments[: len(segments) // CROPS_PER_PASS * CROPS_PER_PASS]:
        pixels = decode_image((folder / "images" / names[segment["image_id"]]).read_bytes())
        rle = segment["segmentation"]
        mask = masks.decode(rle["counts"].encode("ascii"), *rle["size"])
        cut.append(crops.crop_region(pixels, mask, tuple(segment["bbox"]), clip.size, color, antialias=True)[0])
    return list(torch.split(crops.normalize(torch.stack(cut), clip.mean, clip.std), CROPS_PER_PASS))


def _in_bfloat16(clip: Clip) -> Clip:
    model = copy.deepcopy(clip.model)
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    return replace(clip, model=model, dtype=torch.bfloat16)


def _tower(clip: Clip, packed: bool) -> Encoder:
    def encode(images: Tensor) -> Tensor:
        with clip._packed_blocks.applied() if packed else nullcontext():
            return clip.model.encode_image(images.to(clip.dtype))  # type: ignore[operator, no-any-return]

    return encode


class PlainBlock(nn.Module):
    """A block of open_clip with linear layers alone, which int8 and torch.compile know, and fused attention."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads = attention.num_heads
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.project_qkv = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.project_out = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.expand, self.gelu, self.shrink = block.mlp.c_fc, block.mlp.gelu, block.mlp.c_proj
        self.visible: Tensor | None = None  # bool `[N, 1, 1, T]`: the tokens that are attended to; None for all

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        number, length, width = tokens.shape
        qkv = self.project_qkv(_normalized(self.ln_1, tokens)).view(number, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, self.visible).transpose(1, 2)
        tokens = tokens + self.project_out(attended.reshape(number, length, width))
        return tokens + self.shrink(self.gelu(self.expand(_normalized(self.ln_2, tokens))))  # type: ignore[no-any-return]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


def _normalized(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _plain(clip: Clip) -> Any:
    visual: Any = copy.deepcopy(clip.model.visual)
    visual.transformer.resblocks = nn.ModuleList(PlainBlock(block) for block in visual.transformer.resblocks)
    return visual.eval()


def _int8(clip: Clip) -> Encoder:
    torch.backends.quantized.engine = "onednn"  # the fastest of torch's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its successor torchao
        layers = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        visual: Encoder = torch.ao.quantization.quantize_dynamic(_plain(clip), layers)  # type: ignore[no-untyped-call]
    return visual


def _no_blanks(clip: Clip) -> Encoder:
    visual = _plain(clip)

    def encode(images: Tensor) -> Tensor:
        visible = F.pad(~blank_patches(images, visual.conv1.kernel_size[0]).flatten(1), (1, 0), value=True)
        for block in visual.transformer.resblocks:
            block.visible = visible[:, None, None]
        return visual(images)  # type: ignore[no-any-return]

    return encode


def blank_patches(images: Tensor, patch: int) -> Tensor:
    """Which patches of normalized crops are background alone, bool `[N, g, g]`."""
    return F.max_pool2d(images.abs().amax(1), patch) < BLANK


def _compiled(clip: Clip) -> Encoder:
    visual: Encoder = torch.compile(_plain(clip), options={"freezing": True})
    return lambda images: visual(images.to(clip.dtype))
