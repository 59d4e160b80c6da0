"""One step of training a region encoder, on any number of micro-batches.

The loss needs the embeddings of all images of the step, but not their graphs; see `contrastive` for how. Over several processes
each has the loss of its own images, and the gradient is the mean.

Shapes: B images of this rank, S side of the input, Q regions, g grid of patches, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovseg.clip.embedding_files import write_embeddings
from ovseg.clip.pseudo_text import PseudoText
from ovseg.core.options import FinetuneOptions
from ovseg.training.distributed import World, accumulate, all_reduce_sum, average_gradient
from ovseg.training.loop import StepResult, explain_out_of_memory
from ovseg.training.objectives import Objective, RegionOutputs
from ovseg.training.precision import autocast_context
from ovseg.training.region_dataset import RegionBatch
from ovseg.training.texts import draw_synonyms

WITH_PSEUDO_TEXTS = (
    "The pseudo-texts of all classes and images of a step are in memory at once: if that is not enough, set "
    "finetune.batch_size to less"
)


@dataclass(frozen=True)
class RegionStep:
    """Computes the gradients of one training step; a `Step`.

    Attributes:
        objective: the method.
        tower: a `RegionTower`, wrapped by `wrap_for_ranks`.
        frozen: its copy of before the training; None if the objective needs none.
        teach: function from crops `[C, 3, s, s]` and masks to the teacher's unit vectors `[C, D]`; None without a teacher.
        log_scale: the logarithm of the logit scale, a scalar.
        texts: unit vectors `[T, M, D]` of all synonyms of K classes.
        synonyms: for each class the places of its synonyms in [0, M), one of which is drawn for a step; None if M is K.
        template_weights: `[T]`.
        pseudo_text: what is learned of texts and images, None for nothing.
        batches: the batches of this rank.
        micro_size: the number of images in memory at a time.
        options: the parameters of the training.
        world: the process group.
    """

    objective: Objective
    tower: nn.Module
    frozen: nn.Module | None
    teach: Callable[[Tensor, Tensor], Tensor] | None
    log_scale: Tensor
    texts: Tensor
    synonyms: Sequence[Sequence[int]] | None
    template_weights: Tensor
    pseudo_text: PseudoText | None
    batches: Iterator[RegionBatch]
    micro_size: int
    options: FinetuneOptions
    world: World

    def __call__(self, number: int) -> StepResult:
        """Compute the gradients of the step of this number, see `Step`."""
        batch = next(self.batches)
        more = "" if self.pseudo_text is None else WITH_PSEUDO_TEXTS
        with explain_out_of_memory("finetune", self.micro_size, more):
            loss = self._compute(batch, number)
        shown = {"logit_scale": float(self.log_scale.detach().exp())}
        return StepResult(loss, self.options.batch_size, batch["keys"], shown)

    def _compute(self, batch: RegionBatch, number: int) -> Tensor:
        pieces = list(
            zip(torch.split(batch["image"], self.micro_size), torch.split(batch["masks"], self.micro_size), strict=True)
        )
        single = len(pieces) == 1
        with torch.set_grad_enabled(single):
            local = torch.cat([self._encode(self.tower, *piece) for piece in pieces])
        vectors = local.detach().requires_grad_()
        number_of_regions = batch["masks"].shape[1]
        outputs = RegionOutputs(
            regions=vectors[:, :number_of_regions],
            whole=vectors[:, number_of_regions],
            frozen=self._whole_images_of_frozen(pieces),
            teacher=self._teacher_vectors(batch),
            texts=self._texts(number),
            template_weights=self.template_weights,
            pseudo_text=self.pseudo_text,
            cells=vectors[:, number_of_regions + 1 :],
            scale=self.log_scale.exp(),
            step=number,
        )
        loss = self.objective.loss(outputs, batch, self.options)
        torch.autograd.backward(loss)
        gradient = torch.zeros_like(vectors) if vectors.grad is None else vectors.grad
        if single:
            with autocast_context(self.world.device, self.options.precision):
                torch.autograd.backward(local, gradient)
        else:
            parts = list(zip(pieces, torch.split(gradient, self.micro_size), strict=True))
            for piece, part in accumulate(self.tower, parts):
                vectors_again = self._encode(self.tower, *piece)
                with autocast_context(self.world.device, self.options.precision):
                    torch.autograd.backward(vectors_again, part)
        of_texts = () if self.pseudo_text is None else self.pseudo_text.parameters()
        for parameter in (self.log_scale, self.template_weights, *of_texts):  # no parts of the wrapped module
            average_gradient(parameter, self.world)
        return torch.tensor(all_reduce_sum(float(loss.detach()), self.world) / self.world.size)

    def _texts(self, number: int) -> Tensor:
        if self.synonyms is None:
            return self.texts
        return self.texts[:, draw_synonyms(self.synonyms, self.options.seed, number)]

    def _encode(self, tower: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
        with autocast_context(self.world.device, self.options.precision):
            vectors: Tensor = tower(images.to(self.world.device), masks.to(self.world.device))
        return vectors

    @torch.no_grad()
    def _whole_images_of_frozen(self, pieces: list[tuple[Tensor, Tensor]]) -> Tensor | None:
        if self.frozen is None:
            return None
        return torch.cat([self._encode(self.frozen, images, masks[:, :0])[:, 0] for images, masks in pieces])

    def _teacher_vectors(self, batch: RegionBatch) -> Tensor | None:
        """What the teacher makes of the real regions; what it encodes now is kept for later epochs and trainings."""
        if self.teach is None:
            return None
        sizes = batch["real"].sum(1).tolist()
        new = [0 if taught is not None else size for taught, size in zip(batch["taught"], sizes, strict=True)]
        # a copy, because autograd does not keep the tensors of inference mode
        encoded = (
            torch.split(self.teach(batch["crops"], batch["crop_masks"]).clone(), new) if sum(new) else [None] * len(new)
        )
        vectors: list[Tensor] = []
        for taught, now, file in zip(batch["taught"], encoded, batch["teacher_files"], strict=True):
            if taught is not None:
                vectors.append(taught)
            elif now is not None and len(now):
                assert file is not None
                write_embeddings(file, now)
                vectors.append(now)
        return torch.cat([*vectors, torch.zeros(0, self.texts.shape[-1])]).to(self.world.device)
