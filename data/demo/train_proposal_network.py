"""Train the demo's proposal network: `python -m data.demo.train_proposal_network`, 34 minutes on one CPU core.

It is trained on the annotated masks of the train split alone; `dvc repro data/demo/dvc.yaml` must have drawn them. The result
is committed in data/demo/proposal_network in half precision, and the stage `proposal_network` of the default recipe copies it.
"""

import tempfile
from pathlib import Path

import torch

from ovseg.core.options import IndexOptions, ProposalNetworkOptions
from ovseg.engine.runtime import from_environment
from ovseg.mining.index import build_index
from ovseg.proposals.network_folder import load_network, save_network
from ovseg.training.proposal_network import train_proposal_network
from stages._run import run_stage

HERE = Path(__file__).parent
OUT, TRAIN, CLIP = HERE / "proposal_network", HERE / "train", HERE / "clip"
OPTIONS = ProposalNetworkOptions(
    annotations=TRAIN / "panoptic.json",
    licence="Apache-2.0",
    backbone="resnet10t",
    pretrained=False,
    num_queries=20,
    hidden_dim=64,
    decoder_layers=3,
    dropout=0.0,
    text_proj_dim=128,
    templates="vild",
    steps=4000,
    batch_size=16,
    crop_size=128,
    min_scale=1.0,
    max_scale=1.5,
    color_jitter=False,
    short_side=160,
    long_side=640,
    lr=1e-3,
    backbone_lr_multiplier=1.0,
    weight_decay=1e-4,
    warmup_steps=50,
    clip_norm=1.0,
    precision="bf16",
    seed=0,
)


def main(_: object) -> None:
    """Write data/demo/proposal_network."""
    runtime = from_environment()
    with tempfile.TemporaryDirectory() as folder:
        index, full = Path(folder) / "index", Path(folder) / "proposal_network"
        build_index(index, runtime, IndexOptions(images=TRAIN / "images", captions=TRAIN / "captions.json"))
        train_proposal_network(index, TRAIN / "images", CLIP, full, runtime, OPTIONS)
        network = load_network(full)
    save_network(network.model, OUT, network.metadata, OPTIONS.short_side, OPTIONS.long_side, torch.float16)


if __name__ == "__main__":
    run_stage(main)
