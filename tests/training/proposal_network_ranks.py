"""What each rank of `test_proposal_network` runs: `torchrun -m tests.training.proposal_network_ranks FOLDER`."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from ovseg.engine.runtime import Runtime
from ovseg.training import run as module
from ovseg.training.distributed import distributed_context
from ovseg.training.proposal_network import train_proposal_network
from tests.training.test_proposal_network import LONGER, alike, change, gradients


def main() -> None:
    folder = Path(sys.argv[1])
    index, images, annotations, clip = (Path(path) for path in json.loads((folder / "paths.json").read_text()))
    logging.basicConfig(level=logging.INFO)
    with distributed_context(["cpu"]) as world:
        results = gradients(clip, alike(2 * world.rank, 2), 1, world, DistributedDataParallel)
        torch.save(results, folder / f"{world.rank}.pt")
        setattr(module, "distributed_context", lambda _: nullcontext(world))  # ranks meet once in a process  # noqa: B010
        runtime = Runtime(workers=1, work=folder / "work")
        options = change(LONGER, annotations=annotations)
        train_proposal_network(index, images, clip, folder / "out", runtime, options)


if __name__ == "__main__":
    main()
