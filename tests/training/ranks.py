"""What each rank of `test_two_processes` runs: `torchrun -m tests.training.ranks FOLDER`."""

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
from ovseg.training.region_training import RunFolders
from tests.training import test_contrastive, test_proposal_network, test_pseudo_text_training
from tests.training.test_proposal_network import LONGER, alike, change


def main() -> None:
    folder = Path(sys.argv[1])
    paths = json.loads((folder / "paths.json").read_text())
    index, images, annotations, clip, base = (Path(path) for path in paths)
    logging.basicConfig(level=logging.INFO)
    with distributed_context(["cpu"]) as world:
        (folder / f"{world.rank}.json").write_text(json.dumps({"rank": world.rank, "size": world.size}))
        for parts in (1, 2):
            first, number = world.rank * 6, 6 // parts
            batches = [test_contrastive.batch_of(first + i * number, number) for i in range(parts)]
            results = test_contrastive.gradients(base, batches, world, DistributedDataParallel)
            torch.save(results, folder / f"contrastive-{parts}-{world.rank}.pt")
        scenes = alike(2 * world.rank, 2)
        results = test_proposal_network.gradients(clip, scenes, 1, world, DistributedDataParallel)
        torch.save(results, folder / f"masks-{world.rank}.pt")
        run = RunFolders(*(folder / "run" / name for name in ("index", "proposals", "pairs", "images")))
        results = test_pseudo_text_training.gradients(folder / "pseudo", run, 1, world)
        torch.save(results, folder / f"pseudo-{world.rank}.pt")
        setattr(module, "distributed_context", lambda _: nullcontext(world))  # ranks meet once in a process  # noqa: B010
        runtime = Runtime(workers=1, work=folder / "work")
        options = change(LONGER, annotations=annotations)
        train_proposal_network(index, images, clip, folder / "out", runtime, options)


if __name__ == "__main__":
    main()
