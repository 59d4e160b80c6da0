"""What each rank of the two-process test runs: `torchrun -m tests.training.ranks BASE OUT PARTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from ovseg.training.distributed import distributed_context
from tests.training.test_contrastive import batch_of, gradients


def main() -> None:
    base, out, parts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with distributed_context(["cpu"]) as world:
        first, number = world.rank * 6, 6 // parts
        batches = [batch_of(first + i * number, number) for i in range(parts)]
        results = gradients(base, batches, world, DistributedDataParallel)
        torch.save(results, out / f"{world.rank}.pt")
        (out / f"{world.rank}.json").write_text(json.dumps({"rank": world.rank, "size": world.size}))


if __name__ == "__main__":
    main()
