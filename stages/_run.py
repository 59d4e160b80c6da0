"""What all stage scripts share: parameters, logging, errors as one line, and an exit code that is not 0 after an error."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ovseg.core.errors import OvsegError, describe_os_error
from ovseg.core.params import Params, read_params
from ovseg.engine.process import end_process
from ovseg.engine.runtime import Runtime, from_environment
from ovseg.engine.terminal import fit_terminal, log_to_stderr


def run_stage(stage: Callable[[Params], object]) -> None:
    """Call a stage with the checked parameters of params.yaml, and end the process with its exit code."""
    end_process(_exit_code(stage))


def _exit_code(stage: Callable[[Params], object]) -> int:
    log_to_stderr()
    for library in ("aiobotocore", "botocore", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        stage(read_params())
    except OvsegError as error:
        print(fit_terminal(f"Error: {error}"), file=sys.stderr)
        return 1
    except Exception as error:
        if not (message := describe_os_error(error)):
            raise
        print(fit_terminal(f"Error: {message}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Finished work is kept: run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


def run_training(stage: Callable[[Params], object]) -> None:
    """Do as `run_stage`, in one process for each device of `OVSEG_DEVICE`, or in `OVSEG_PROCESSES` processes, by torchrun."""
    if "RANK" not in os.environ:
        if code := _exit_code(_start_ranks):
            end_process(code)
    elif not is_first_rank():
        logging.disable(logging.INFO)
    run_stage(stage)


def is_first_rank() -> bool:
    """Whether this process is the one of a training that writes its results."""
    return os.environ.get("RANK", "0") == "0"


def _start_ranks(_: Params) -> None:
    """Replace this process by torchrun if several processes are wanted; it runs the same script in each of them."""
    runtime = from_environment()
    processes = runtime.processes or len(runtime.devices)
    kinds = {device.split(":")[0] for device in runtime.devices}
    if len(kinds) > 1 or ("cuda" in kinds and processes > len(runtime.devices)):
        raise OvsegError(
            f"{processes} processes cannot train on {', '.join(runtime.devices)}: each needs a GPU of its own"
        )
    if processes > 1:
        module = Path(sys.argv[0]).resolve().relative_to(Path.cwd()).with_suffix("")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        os.execv(sys.executable, [*torchrun, "-m", ".".join(module.parts), *sys.argv[1:]])  # noqa: S606


def training_runtime() -> Runtime:
    """Read the runtime options of a training from the environment, and two more from the command line.

    `--max-steps N` stops this run after N steps with a checkpoint; the next run continues. `--fresh` forgets an unfinished
    training and starts it anew.

    Raises:
        OvsegError: a number is not a positive integer.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise OvsegError(f"--max-steps {arguments.max_steps} must be at least 1")
    return replace(from_environment(), stop_after=arguments.max_steps, fresh=arguments.fresh)
