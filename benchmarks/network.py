"""Speed of the proposal network in each memory layout and arithmetic, and how many pixels of its masks change.

    python -m benchmarks network      about 2 minutes on two cores

MaskFormer of the recipes' sizes with ResNet-50 and random weights on an image of 640 pixels, and the demo's trained network on
drawn images. Pixels of masks are counted above a probability of a half, relative to those of the first variant.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from benchmarks import inputs
from benchmarks.regions import mask_network
from benchmarks.results import Measurement, Options, Result, Row, Target, Variant, interleave, medians
from data.demo.world.make import make_split
from ovseg.core.images import ImageArray, decode_image
from ovseg.core.options import Precision
from ovseg.proposals.network import ProposalNetwork
from ovseg.proposals.network_folder import load_network

REPEATS, DRAWN, WIDTH = 5, 8, 512
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def run(options: Options) -> Result:
    photograph = next(inputs.images(options.folder / "images", 1).images.iterdir())
    make_split(options.folder / "drawn", "val", 2 if options.smoke else DRAWN, seed=0)
    drawn = sorted((options.folder / "drawn" / "images").iterdir())
    demo = load_network(inputs.ROOT / "data" / "demo" / "proposal_network")
    cases = {"demo's network": (demo, drawn)}
    if not options.smoke:
        cases["ResNet-50, 640 pixels"] = (mask_network(WIDTH), [photograph])
    rows: list[Row] = []
    measurements: dict[str, list[Measurement]] = {}
    targets: list[Target] = []
    for case, (network, files) in cases.items():
        images = [decode_image(file.read_bytes()) for file in files]
        networks = variants(network)
        of_case = interleave(
            {name: _rate(one, images) for name, one in networks.items()}, 1 if options.smoke else REPEATS
        )
        measurements |= {f"{name}, {case}": values for name, values in of_case.items()}
        rates = medians(of_case)
        first, *_, last = rates
        reference = _masks(networks[first], images)
        for name, one in networks.items():
            masks = _masks(one, images)
            changed = sum(int((a != b).sum()) for a, b in zip(masks, reference, strict=True))
            row: Row = {"network": case, "variant": name, "ms": 1e3 / rates[name], "ratio": rates[name] / rates[first]}
            rows.append(row | {"pixels of masks changed": changed / sum(int(mask.sum()) for mask in reference)})
        targets.append(Target(f"{last} / {first}, {case}", rates[last] / rates[first], 1.2))
    return Result({"images": len(drawn)}, rows, targets, measurements)


def variants(network: ProposalNetwork) -> dict[str, ProposalNetwork]:
    """The network in each layout of its weights, in each arithmetic."""
    plain, last = (ProposalNetwork(copy.deepcopy(network.model), network.metadata) for _ in range(2))
    return {f"channels first, {precision}": replace(plain, precision=precision) for precision in PRECISIONS} | {
        f"channels last, {precision}": last.for_prediction(precision) for precision in PRECISIONS
    }


def _rate(network: ProposalNetwork, images: Sequence[ImageArray]) -> Variant:
    def variant(_: int) -> float:
        network.predict(images[0])
        start = time.perf_counter()
        for image in images:
            network.predict(image)
        return len(images) / (time.perf_counter() - start)

    return variant


def _masks(network: ProposalNetwork, images: Sequence[ImageArray]) -> list[Tensor]:
    return [network.predict(image).mask_logits > 0 for image in images]
