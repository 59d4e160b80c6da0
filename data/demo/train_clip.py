"""Train the demo's stand-in for OpenAI's CLIP again: `dvc repro -f data/demo/dvc.yaml:clip` after `dvc unfreeze`.

The result is committed (data/demo/clip), so nobody needs to; README.md in this folder says what it took.
"""

import json
import time
from pathlib import Path

from data.demo.world.pretrain import PHASES, pretrain
from ovseg.core.params import Params
from stages._run import run_stage

HERE = Path(__file__).parent


def main(_: Params) -> None:
    """Write data/demo/clip and its measurements."""
    begun = time.monotonic()
    found = pretrain(HERE / "clip", PHASES, batch=128, lr=1e-3)
    found["minutes"] = round((time.monotonic() - begun) / 60, 1)
    (HERE / "clip" / "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    run_stage(main)
