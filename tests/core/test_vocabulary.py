"""From class names to embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovseg.core.options import Templates
from ovseg.core.vocabulary import TEMPLATES, embed


class Encoder:
    """A text encoder with a random unit vector for each text, which records the texts of each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.vectors: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        self.calls.append(texts)
        for text in texts:
            generator = torch.Generator().manual_seed(sum(map(ord, text)))
            self.vectors.setdefault(text, torch.nn.functional.normalize(torch.randn(6, generator=generator), dim=0))
        return torch.stack([self.vectors[text] for text in texts])


def test_the_templates_are_vilds() -> None:
    """The paper's A.2 uses ViLD's 14, all different, each with one place for the name."""
    assert len(TEMPLATES["vild"]) == len(set(TEMPLATES["vild"])) == 14
    assert all(form.count("{}") == 1 for forms in TEMPLATES.values() for form in forms)
    without_stop = [form for form in TEMPLATES["vild"] if not form.endswith(".")]
    assert without_stop == [
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
    ]
    assert TEMPLATES["single"] == ("a photo of a {}.",) and TEMPLATES["none"] == ("{}",)


@pytest.mark.parametrize("templates", ["none", "single", "vild"])
def test_a_name_is_the_normalised_mean_of_its_texts(templates: Templates) -> None:
    """By the formula: the mean of unit vectors, then unit length."""
    encode = Encoder()
    names = ["dog", "traffic light", "a {brace}"]
    vectors = embed(names, encode, templates, 5)
    for name, vector in zip(names, vectors, strict=True):
        mean = torch.stack([encode.vectors[form.replace("{}", name)] for form in TEMPLATES[templates]]).mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 14, 1000])
def test_batches_change_nothing(batch_size: int) -> None:
    """Each text is encoded once, in batches of at most the given size, with the same result."""
    encode = Encoder()
    names = ["dog", "cat", "boat"]
    vectors = embed(names, encode, "vild", batch_size)
    assert torch.equal(vectors, embed(names, Encoder(), "vild", 7))
    assert sum(map(len, encode.calls)) == 14 * 3 and max(map(len, encode.calls)) <= batch_size
