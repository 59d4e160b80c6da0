"""All steps of mining in one call, without DVC: what `ovseg-mine run` does. The DVC stages call the same functions."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovseg import __version__
from ovseg.core import hashing
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.files import write_json
from ovseg.core.options import RunOptions
from ovseg.core.remote_files import is_file, make_folder
from ovseg.engine.runtime import Runtime
from ovseg.engine.weight_files import skip_downloads
from ovseg.mining.index import build_index
from ovseg.mining.nouns import extract_nouns
from ovseg.mining.propose import propose_masks
from ovseg.mining.select import select_pairs
from ovseg.mining.shards import write_shards
from ovseg.proposals.sources import mask_source, table_metadata

RUN = "run.json"


def mine_pairs(options: RunOptions, out: Path, runtime: Runtime) -> dict[str, dict[str, int]]:
    """Do every step, each into its folder `out/<step>`. A killed run continues where it stopped.

    Args:
        options: the options of the steps.
        out: folder of the run; see `check_output_folder`.
        runtime: devices, workers, batch size, scratch folder. Steps whose code or inputs have changed are done
            again, unless `runtime.keep` is set.

    Returns:
        the counts of each step.

    Raises:
        OvsegError: `out` belongs to a run with other options; or what a step raises.
    """
    check_output_folder(options, out)
    runtime = replace(runtime, replace=True)  # a step that is done again changes the inputs of those after it
    images = options.index.images
    index, nouns, proposals = out / "index", out / "nouns", out / "proposals"
    candidates, pairs = out / "candidates", out / "pairs"
    counts = {"index": build_index(index, runtime, options.index)}
    counts["nouns"] = extract_nouns(index, nouns, runtime, options.nouns)
    counts["propose"] = propose_masks(index, images, proposals, runtime, options.propose)
    # Only here: it imports torch and open_clip, which errors of the steps above need not wait for.
    from ovseg.mining.score import score_nouns

    counts["score"] = score_nouns(
        index, images, nouns, proposals, candidates, runtime, options.clip, options.score, options.crop
    )
    counts["select"] = select_pairs(candidates, proposals, pairs, runtime, options.select)
    counts["shards"] = write_shards(index, images, proposals, pairs, out / "shards", runtime, options.shards)
    return counts


def check_inputs(options: RunOptions) -> None:
    """Check that what a run reads is there: every path, the model that makes the masks, the CLIP. Nothing is downloaded.

    Raises:
        OvsegError: something is missing; with `OVSEG_OFFLINE=1` also what is published and not on this machine.
    """
    from ovseg.mining.scorer import check_scorer

    for section, values in options:
        for name, value in values:
            if hasattr(value, "exists") and not value.exists():
                raise OvsegError(f"{section}.{name}={value} does not exist")
    mask_source(options.propose)
    for check in (lambda: check_scorer(options.clip), lambda: table_metadata(options.propose)):
        with skip_downloads():
            check()


def read_options(out: Path) -> RunOptions:
    """Read the options of a run from its run.json.

    Raises:
        OvsegError: `out` is no folder of a run, or one of an older version.
    """
    path = out / RUN
    if not is_file(path):
        raise OvsegError(f"{out} was not written by `ovseg-mine run`; give its folder --out")
    try:
        return RunOptions.model_validate_json(json.dumps(json.loads(path.read_text(encoding="utf-8"))["options"]))
    except (KeyError, ValueError):
        raise OvsegError(f"{out} was written by another version of ovseg; run `ovseg-mine run` again") from None


def check_output_folder(options: RunOptions, out: Path) -> None:
    """Check that a run may write to `out`, and record its options there in run.json.

    A run that has written nothing else yet, because of a mistake in a path for example, does not occupy its folder.

    Raises:
        OvsegError: `out` belongs to a run with other options or of an older version, or holds something else, or cannot be
            written to.
    """
    values, path = options.model_dump(mode="json"), out / RUN
    fingerprint = hashing.fingerprint(**values)
    with explain_write_errors(out):
        is_there = out.exists()
    if is_there and not out.is_dir():
        raise OvsegError(f"{out} is not a folder; give another --out")
    if out.is_dir() and any(entry.name not in (RUN, f"{RUN}.tmp") for entry in out.iterdir()):
        if not path.is_file():
            raise OvsegError(f"{out} exists and was not written by `ovseg-mine run`; give another --out")
        record = json.loads(path.read_text(encoding="utf-8"))
        if "options" not in record:
            raise OvsegError(
                f"{out} was written by an older version of ovseg; give another --out, or remove that folder"
            )
        if record["fingerprint"] == fingerprint:
            return
        recorded, current = dict(_flatten(record["options"])), dict(_flatten(values))
        names = sorted(name for name in {*recorded, *current} if recorded.get(name) != current.get(name))
        changed = ", ".join(f"{name}: {recorded.get(name)!r} there, {current.get(name)!r} now" for name in names)
        raise OvsegError(
            f"{out} belongs to another run: its fingerprint is {record['fingerprint']}, this run's is {fingerprint} "
            f"({changed}). Give another --out, or remove that folder"
        )
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with explain_write_errors(out):
        make_folder(out)
        write_json(path, {"fingerprint": fingerprint, "version": __version__, "started": started, "options": values})


def _flatten(sections: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any]]:
    return [(f"{section}.{name}", value) for section, values in sections.items() for name, value in values.items()]
