"""Stage `download` of data/*/dvc.yaml: downloads the archives of one part of a data set and writes their receipt."""

import os
import sys
from pathlib import Path

from ovseg.core.params import Params
from ovseg.datasets.fetch.parts import fetch
from ovseg.datasets.fetch.releases import parts_of
from ovseg.datasets.fetch.status import format_states, part_state
from stages._run import run_stage


def main(_: Params, dataset: str, name: str) -> None:
    """Write data/DATASET/receipts/PART.json; the command is `python -m stages.download DATASET PART`."""
    home = Path("data", dataset)
    for part in parts_of(dataset, (name,)):
        print(format_states([part_state(part, home)], home), file=sys.stderr, flush=True)
        fetch(part, home, os.environ.get("OVSEG_MIRROR"))


if __name__ == "__main__":
    run_stage(main, "DATASET", "PART")
