"""The proposal network on disk and in use: what is kept, what is refused, and that any image fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml

from ovseg.clip.adapted import load_adapted
from ovseg.core.errors import OvsegError
from ovseg.core.options import Precision
from ovseg.core.params import read_params
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD, QueryClassifier, input_size, preprocess
from ovseg.proposals.network_folder import load_network
from tests.conftest import ROOT, Toys
from tests.scenes import scene
from tests.toys import LONG, QUERIES, SHORT, noise, tiny_model

NETWORK = ROOT / "data" / "demo" / "proposal_network"


def test_classes_are_cosines_with_texts_and_no_object_times_a_hundred() -> None:
    torch.manual_seed(0)
    classifier = QueryClassifier(8, 12, 6)
    classifier.text_embeddings = F.normalize(torch.randn(4, 6), dim=-1)
    queries = torch.randn(2, 5, 8)
    first, last = classifier.project[0], classifier.project[2]
    projected = (queries @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias  # type: ignore[operator]
    classes = torch.cat([classifier.text_embeddings, classifier.no_object[None]])
    expected = 100 * F.cosine_similarity(projected[:, :, None], classes, dim=-1)
    torch.testing.assert_close(classifier(queries), expected, atol=1e-3, rtol=1e-4)
    assert classifier(queries).shape == (2, 5, 5)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 64), (1, 10_000), (10_000, 1), (1, 1), (500, 333)])
def test_an_image_of_any_size_can_be_predicted(toys: Toys, height: int, width: int) -> None:
    network = load_network(toys.network)
    output = network.predict(noise(0, height, width))
    assert output.query_embeddings.shape == (QUERIES, 16)
    assert output.mask_logits.shape[0] == QUERIES
    torch.testing.assert_close(output.query_embeddings.norm(dim=-1), torch.ones(QUERIES))
    assert float(output.no_object_embedding.norm()) == pytest.approx(1)
    resized = input_size(height, width, SHORT, LONG)
    assert output.extent == (resized[0] / 4, resized[1] / 4)
    assert all(0 < inside <= side for inside, side in zip(output.extent, output.mask_logits.shape[1:], strict=True))
    assert all(tensor.isfinite().all() for tensor in (output.query_embeddings, output.mask_logits))


def test_a_prediction_is_deterministic(toys: Toys) -> None:
    first, second = (load_network(toys.network).predict(noise(3)) for _ in range(2))
    assert torch.equal(first.query_embeddings, second.query_embeddings) and torch.equal(
        first.mask_logits, second.mask_logits
    )


@pytest.mark.parametrize(("precision", "changed"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_the_layout_and_the_arithmetic_of_predictions_change_masks_by_rounding_alone(
    precision: Precision, changed: float
) -> None:
    """The demo's trained network: how many pixels of its masks are others. What comes out is float32."""
    plain, fast = load_network(NETWORK), load_network(NETWORK).for_prediction(precision)
    weights = [p for p in fast.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    for seed in range(3):
        wanted, found = (network.predict(scene(seed)) for network in (plain, fast))
        assert found.mask_logits.dtype == found.query_embeddings.dtype == torch.float32
        masks, others = wanted.mask_logits > 0, found.mask_logits > 0
        assert masks.any() and (masks != others).sum() <= changed * masks.sum()
        assert float(F.cosine_similarity(found.query_embeddings, wanted.query_embeddings).min()) > 1 - changed
        assert torch.equal(found.no_object_embedding, wanted.no_object_embedding) and found.extent == wanted.extent


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (512, 683)),
        ((512, 768), (512, 768)),
        ((256, 257), (512, 514)),
        ((1024, 1025), (512, 513)),  # 512.5: half a pixel is rounded up, as detectron2 does, and not to the even number
        ((1024, 1027), (512, 514)),
        ((640, 480), (683, 512)),
        ((100, 100), (512, 512)),
        ((1, 64), (32, 2048)),
        ((300, 3000), (205, 2048)),
        ((1, 10_000), (4, 2048)),
        ((10_000, 1), (2048, 4)),
    ],
)
def test_the_short_side_is_reached_unless_the_long_one_would_be_too_long(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert input_size(*size, 512, 2048) == expected


def test_the_input_is_normalized_and_padded_with_zeros_below_and_to_the_right() -> None:
    pixels = np.full((10, 20, 3), (10, 120, 250), np.uint8)
    tensor = preprocess(pixels, (40, 80))
    assert tensor.shape == (1, 3, 64, 96)
    for channel, value in enumerate((10, 120, 250)):
        expected = (value / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(tensor[0, channel, :40, :80], torch.full((40, 80), expected))
    assert not tensor[:, :, 40:].any() and not tensor[:, :, :, 80:].any()


def test_read_only_and_transposed_pixels_are_accepted() -> None:
    pixels = noise(0)
    pixels.flags.writeable = False
    assert torch.equal(preprocess(pixels, (48, 64)), preprocess(noise(0), (48, 64)))
    transposed = np.asfortranarray(noise(0))
    assert torch.equal(preprocess(transposed, (48, 64)), preprocess(noise(0), (48, 64)))


@pytest.mark.parametrize("hidden_dim", [8, 40])
def test_a_width_that_params_allow_can_be_built(toys: Toys, tmp_path: Path, hidden_dim: int) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["proposal_network"]["hidden_dim"] = hidden_dim
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        read_params(tmp_path / "params.yaml")
    except OvsegError:
        return
    tiny_model(load_adapted(toys.clip), hidden_dim=hidden_dim)
