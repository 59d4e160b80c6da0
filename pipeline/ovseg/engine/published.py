"""What is published already: whether the output folder of a step still holds the result of its key."""

from __future__ import annotations

import logging
from pathlib import Path

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.paths import is_remote
from ovseg.core.remote_files import file_sizes, is_unfinished
from ovseg.core.retries import may_pass
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.runtime import Runtime

log = logging.getLogger("ovseg")


def reusable_counts(out: Path, key: StepKey, runtime: Runtime) -> dict[str, int] | None:
    """Return the counts of a step that was already published to `out` and is intact; None if the step must be run.

    A result produced by different code is recomputed, with a warning that names the changed files, unless `runtime.keep` is
    set. With `runtime.fresh` every result is recomputed; the checks of `out` that raise an error are still made.

    Args:
        out: the output folder.
        key: the key of the step.
        runtime: `replace` allows results of other inputs to be replaced; `keep` keeps results of different code;
            `fresh` keeps none, and `retry` none with items that were dropped for a reason that may pass.

    Raises:
        OvsegError: `out` holds something else or was written by an older version; or it belongs to other parameters, inputs
            or models, unless `runtime.replace` is set; or it is the current folder or above it.
    """
    _refuse_current_folder(out)
    with explain_write_errors(out):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())) or is_unfinished(out):
            return None
        manifest = tables.read_step_manifest(out)
    if not manifest:
        raise OvsegError(f"{out} exists and was not written by ovseg; give another output folder, or remove it")
    if "code" not in manifest:
        raise OvsegError(f"{out} was written by an older version of ovseg; give another output folder, or remove it")
    if manifest["fingerprint"] != key.fingerprint:
        if runtime.replace:
            return None
        raise OvsegError(
            f"{out} belongs to another run: its fingerprint is {manifest['fingerprint']}, this run's is {key.fingerprint} "
            "(other parameters, inputs or model). Give another output folder, or remove that one"
        )
    if runtime.fresh or (runtime.retry and may_pass(manifest["counts"])):
        return None
    if files := key.describe_changes(manifest["code"]):
        if not runtime.keep:
            log.warning("%s: the code has changed since %s was written (%s); doing it again", key.step, out, files)
            return None
        log.warning("%s: %s is kept, although the code has changed since (%s)", key.step, out, files)
    if is_remote(out):  # reading all of it back would take as long as the step; `ovseg-mine verify` does
        intact = manifest["files"].keys() <= file_sizes(out).keys()
    else:
        intact = all(
            (out / name).is_file() and hashing.sha256_file(out / name) == sha for name, sha in manifest["files"].items()
        )
    return dict(manifest["counts"]) if intact else None


def _refuse_current_folder(out: Path) -> None:
    """Raise OvsegError if this process, and so the user's shell, is in `out`, which is replaced by a new folder."""
    if not is_remote(out) and Path.cwd().is_relative_to(out.resolve()):
        raise OvsegError(
            f"{out} cannot be the output, because a new folder takes its place and the command was started in the old one "
            f"({Path.cwd()}); give a folder inside of the current one, or start the command elsewhere"
        )
