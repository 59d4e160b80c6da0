"""Loading CLIP from a published checkpoint, a weights file, or a folder in open_clip's "local-dir" layout.

Shapes: N crops or texts, S side of the image tower's input, D width of the joint embedding.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import AttentionalPooler
from torch import Tensor, nn

from ovseg.clip.cpu_blocks import PackedBlocks
from ovseg.clip.mask_adapter import MaskAdapter
from ovseg.clip.passes import TEXTS_PER_PASS, crops_per_pass, in_passes, text_lengths
from ovseg.clip.pretrained import LocatedClip, locate
from ovseg.clip.prompts import mask_prompts_applied
from ovseg.clip.pseudo_text import PseudoText
from ovseg.clip.region_settings import CROPS, REGION_ENCODER, RegionSettings
from ovseg.clip.text_prompts import encode_short, is_causal, prompted_tokens, text_prompts_applied
from ovseg.core import crops
from ovseg.core.arithmetic import data_type, full_float32
from ovseg.core.checkpoints import SHARD_INDEX_SUFFIX, describe_problem, read_weights
from ovseg.core.errors import OvsegError
from ovseg.core.options import Precision, Templates
from ovseg.core.vocabulary import Encode, embed, template_embeddings
from ovseg.engine.weight_files import respect_offline

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


@dataclass(frozen=True)
class Clip:
    """A CLIP ready to encode.

    Attributes:
        model: the model of open_clip, frozen, in eval mode, on its device.
        tokenizer: a function from a list of N texts to tokens, int64 `[N, context]`.
        size: S in pixels.
        mean: the mean of the image normalization, float `[3]` on the model's device, in [0, 1].
        std: the standard deviation of the image normalization, like `mean`.
        width: D.
        dtype: the data type of the images that the model takes.
        prompts: mask prompts `[depth, patches, width of the tower]`, or None.
        text_prompts: learned text prompts `[vectors, width of the text tower]` (see `text_prompts`), or None.
        regions: the region encoder that the CLIP is made for, see `clip.regions`.
        adapter: what makes the maps of the region encoder `mask_adapter`, frozen; None without one.
        pseudo_text: what changes text embeddings by what an image shows, frozen, in float32; None without one.
    """

    model: nn.Module
    tokenizer: Any
    size: int
    mean: Tensor
    std: Tensor
    width: int
    dtype: torch.dtype
    prompts: Tensor | None = None
    text_prompts: Tensor | None = None
    regions: RegionSettings = CROPS
    adapter: MaskAdapter | None = None
    pseudo_text: PseudoText | None = None

    @property
    def has_learned_texts(self) -> bool:
        """Whether class names are embedded in a way of its own, which other CLIPs of the same text tower do not share."""
        learned = (self.text_prompts, self.regions.template_weights, self.pseudo_text)
        return any(value is not None for value in learned)

    @torch.inference_mode()
    def encode_crops(self, crops_: Tensor, masks: Tensor | None = None) -> Tensor:
        """Embed crops made by `crops.crop_region`, in forward passes of one shape (see `passes`).

        Args:
            crops_: uint8 `[N, 3, S, S]`.
            masks: the crops' masks, bool `[N, S, S]`; required where there are mask prompts, ignored elsewhere.

        Returns:
            float32 unit vectors `[N, D]` on the CPU.

        Raises:
            ValueError: the CLIP has mask prompts and `masks` is None.
        """
        if self.prompts is not None and masks is None:
            raise ValueError("a CLIP with mask prompts needs the masks of its crops")
        if not len(crops_):
            return torch.zeros(0, self.width)
        device = self.mean.device
        inputs = [crops_] if self.prompts is None or masks is None else [crops_, masks]
        return _unit(
            in_passes(
                self._encode_pass,
                crops_per_pass(device),
                *(tensor.to(device, non_blocking=True) for tensor in inputs),
            )
        )

    def _encode_pass(self, crops_: Tensor, masks: Tensor | None = None) -> Tensor:
        images = crops.normalize(crops_, self.mean, self.std).to(self.dtype)
        with ExitStack() as contexts:
            if self.mean.device.type == "cpu":
                contexts.enter_context(self._packed_blocks.applied())
            if self.prompts is not None and masks is not None:
                contexts.enter_context(mask_prompts_applied(self.model.visual, self.prompts, masks))  # type: ignore[arg-type]
            return self.model.encode_image(images)  # type: ignore[operator, no-any-return]

    @cached_property
    def _packed_blocks(self) -> PackedBlocks:
        return PackedBlocks(self.model.visual)  # type: ignore[arg-type]

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed N texts as float32 unit vectors `[N, D]` on the CPU, in forward passes of one shape (see `passes`)."""
        return self._encode_tokens(self.tokenizer(texts)) if texts else torch.zeros(0, self.width)

    @torch.inference_mode()
    def encode_names(self, names: list[str]) -> Tensor:
        """Embed N class names behind the learned text prompts, like `encode_texts`; there must be such prompts."""
        assert self.text_prompts is not None
        tokens = self.name_tokens(names)
        with text_prompts_applied(self.model, self.text_prompts):
            return self._encode_tokens(tokens)

    def name_tokens(self, texts: list[str]) -> Tensor:
        """Return the tokens of N texts as `name_encoder` encodes them, int64 `[N, context]`; longer texts are cut."""
        if self.text_prompts is None:
            return self.tokenizer(texts)  # type: ignore[no-any-return]
        return prompted_tokens(self.tokenizer, texts, len(self.text_prompts))

    def name_encoder(self, templates: Templates) -> tuple[Encode, Templates]:
        """Return what `core.vocabulary.embed` embeds class names with: an encoder, and the templates of its texts.

        Args:
            templates: the text templates to use if there are no learned text prompts, which take their place.
        """
        return (self.encode_texts, templates) if self.text_prompts is None else (self.encode_names, "none")

    def embed_names(self, names: Sequence[str], templates: Templates) -> Tensor:
        """Embed N class names as regions are compared with them: with the learned text prompts or template weights, if any.

        Args:
            names: N class names.
            templates: the text templates; ignored where there are learned text prompts.

        Returns:
            float32 unit vectors `[N, D]`. With template weights the weighted sum of the unit vectors of the templates, which is
            none: its product with a region embedding is the weighted sum of the cosines (MaskCLIP++).

        Raises:
            OvsegError: the template weights were learned for other templates.
        """
        if self.regions.template_weights is None:
            return embed(names, *self.name_encoder(templates))
        return self.weigh_templates(template_embeddings(names, self.encode_texts, templates), templates)

    def weigh_templates(self, embeddings: Tensor, templates: Templates) -> Tensor:
        """Return the sum over T templates `[N, D]` by the CLIP's template weights, which it must have.

        Args:
            embeddings: the unit vectors of N names in each template, `[N, T, D]`.
            templates: the text templates.

        Raises:
            OvsegError: the weights were learned for other templates.
        """
        if templates != self.regions.templates:
            raise OvsegError(
                f"the CLIP's {REGION_ENCODER} has template_weights for the templates {self.regions.templates}, not "
                f"{templates}; set --templates, or segment.templates, heldout.templates and score.templates, to "
                f"{self.regions.templates}, or train again with finetune.templates={templates}"
            )
        return torch.einsum("t,ntd->nd", torch.tensor(self.regions.template_weights), embeddings)

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode `[N, context]` tokens, N at least 1."""
        causal = is_causal(self.model)
        lengths = text_lengths(tokens) if causal else tokens.new_full((len(tokens),), tokens.shape[1])
        encode = partial(encode_short, self.model) if causal else self.model.encode_text
        embeddings = torch.zeros(len(tokens), self.width)
        for length in sorted(set(lengths.tolist())):
            rows = lengths == length
            of_length = tokens[rows, :length].to(self.mean.device)
            embeddings[rows] = _unit(in_passes(encode, TEXTS_PER_PASS, of_length))  # type: ignore[arg-type]
        return embeddings


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=-1).cpu()


def load_clip(model: str, pretrained: str | None = None, device: str = "cpu", precision: Precision = "fp32") -> Clip:
    """Load a CLIP, every key of its weights accounted for.

    Args:
        model: a name of open_clip, "local-dir:FOLDER" or "hf-hub:OWNER/NAME".
        pretrained: for a name of open_clip: one of its tags, a weights file (safetensors, or loaded with
            `weights_only`), or "random" (seeded weights, for trials).
        device: the torch device.
        precision: the data type of the weights; "bf16" halves memory and more than halves the time. A processor without
            units for it takes "fp32" (`core.arithmetic.data_type`).

    Raises:
        OvsegError: the name or tag is unknown; a file is missing; weights have missing or unexpected keys, or another
            activation; a download is needed without a network or with `OVSEG_OFFLINE=1`; the model's images are not
            square.
    """
    full_float32()
    dtype = data_type(precision, device)
    network = _create(model, locate(model, pretrained), device, dtype)
    tokenizer = _tokenizer(model)
    network.eval().requires_grad_(False)
    visual: Any = network.visual
    size = _side(model, visual)
    if device == "cpu":
        _keep_freed_memory()
    with torch.inference_mode():
        width = network.encode_image(torch.zeros(1, 3, size, size, device=device, dtype=dtype)).shape[-1]  # type: ignore[operator]
    return Clip(
        model=network,
        tokenizer=tokenizer,
        size=size,
        mean=torch.tensor(visual.image_mean, device=device),
        std=torch.tensor(visual.image_std, device=device),
        width=int(width),
        dtype=dtype,
    )


def _keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system, where the C library is glibc.

    glibc maps every tensor above 32 MB anew: the system then zeroes the pages of each layer's activations again and again,
    which is 40% of the time of a ViT-B/16 in bf16 with 64 crops (`benchmarks/score.py`).
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def _create(model: str, located: LocatedClip, device: str, dtype: torch.dtype) -> nn.Module:
    # a repository of the Hub is built from its folder in the cache, so that the network is not used a second time
    name = f"local-dir:{located.path.parent}" if located.path and model.startswith("hf-hub:") else model
    try:
        with _quiet(), respect_offline(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network: nn.Module = open_clip.create_model(
                name,
                load_weights=False,
                precision="bf16" if dtype == torch.bfloat16 else "fp32",
                device=device,
                force_preprocess_cfg=located.preprocess,
                pretrained_text=False,
            )
            if located.path:
                _load_weights(network, located.path)
    except Exception as error:  # torch and open_clip raise errors of many kinds for files that are no weights
        problem = describe_problem(located.path, error) if located.path else _short(error)
        raise OvsegError(f"cannot load the CLIP {model} from {located.path}: {problem}") from None
    for module in network.modules():
        if isinstance(module, AttentionalPooler):  # open_clip leaves its query in float32
            module.query.data = module.query.data.to(module.attn.out_proj.weight.dtype)
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        network.load_state_dict(read_weights(path))
    else:
        open_clip.load_checkpoint(network, str(path))


def _tokenizer(model: str) -> Any:
    try:
        with _quiet(), respect_offline():
            return open_clip.get_tokenizer(model)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise OvsegError(f"cannot load the tokenizer of {model}: {_short(error)}") from None


def _side(model: str, visual: Any) -> int:
    """The side of the input in pixels."""
    sides = visual.image_size if isinstance(visual.image_size, (tuple, list)) else (visual.image_size,)
    if len(set(sides)) > 1:
        raise OvsegError(
            f"{model} takes images of {' x '.join(map(str, sides))} pixels, but crops are square; choose another clip.model"
        )
    return int(sides[0])


def _short(error: Exception) -> str:
    """The first lines of a message of torch, which lists every key that does not fit."""
    return " ".join(line.strip()[:400] for line in str(error).splitlines()[:6])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip, which logs every step of a load."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(level)
