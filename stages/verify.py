"""Stage `verify` of data/*/dvc.yaml: unpacks and checks one part of a data set and writes the manifest of its files."""

from pathlib import Path

from ovseg.core.params import Params
from ovseg.datasets.fetch.parts import KEEP_ARCHIVES, verify
from ovseg.datasets.fetch.releases import parts_of
from ovseg.engine.download import is_on
from stages._run import run_stage


def main(_: Params, dataset: str, name: str) -> None:
    """Write data/DATASET/manifests/PART.tsv; the command is `python -m stages.verify DATASET PART`."""
    for part in parts_of(dataset, (name,)):
        verify(part, Path("data", dataset), keep_archives=is_on(KEEP_ARCHIVES))


if __name__ == "__main__":
    run_stage(main, "DATASET", "PART")
