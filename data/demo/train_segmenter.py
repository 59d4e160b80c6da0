"""Train the demo's proposal network: `python -m data.demo.train_segmenter` (34 minutes on one core).

Frozen stage `segmenter` of data/demo/dvc.yaml: its result is committed in half precision, and the demo's own stage
`segmenter` passes it through. It sees the annotated masks of the train split alone.
"""

import tempfile
from pathlib import Path

import torch

from ovseg.mining.index import build_index
from ovseg.proposals.network import load_network, save_network
from ovseg.runtime import from_environment
from ovseg.training.segmenter import SegmenterRecipe, train_segmenter
from stages._run import run_stage

HERE = Path(__file__).parent
OUT, TRAIN, CLIP = HERE / "segmenter", HERE / "train", HERE / "clip"
RECIPE = SegmenterRecipe(
    backbone="resnet10t", pretrained=False, queries=20, hidden=64, layers=3, dropout=0.0, middle=128, templates="vild",
    steps=4000, batch_size=16, crop=128, min_scale=1.0, max_scale=1.5, colour=False, short_side=160, long_side=640,
    lr=1e-3, backbone_lr_share=1.0, weight_decay=1e-4, warmup_steps=50, clip_norm=1.0, precision="bf16", seed=0,
)  # fmt: skip


def main(_: object) -> None:
    """Write data/demo/segmenter."""
    runtime = from_environment()
    with tempfile.TemporaryDirectory() as folder:
        index, full = Path(folder) / "index", Path(folder) / "segmenter"
        build_index(TRAIN / "images", TRAIN / "captions.json", index, runtime)
        train_segmenter(
            index, TRAIN / "images", TRAIN / "panoptic.json", CLIP, None, full, runtime, RECIPE, licence="Apache-2.0"
        )
        network = load_network(full)
    save_network(network.model, OUT, network.about, RECIPE.short_side, RECIPE.long_side, torch.float16)


if __name__ == "__main__":
    run_stage(main)
