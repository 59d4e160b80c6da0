"""Train the demo's tagger again (half a minute): stage `tagger` of data/demo/dvc.yaml; frozen, its result is committed."""

import json
import time
from pathlib import Path

from data.demo.world.tagging import captions, train_tagger
from ovseg.core.params import Params
from stages._run import run_stage

HERE = Path(__file__).parent


def main(_: Params) -> None:
    """Write data/demo/tagger and its measurements."""
    begun = time.monotonic()
    found = train_tagger(HERE / "tagger", captions(8000, seed=1), captions(1000, seed=2), seed=0, epochs=4)
    found["minutes"] = round((time.monotonic() - begun) / 60, 1)
    (HERE / "tagger" / "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    run_stage(main)
