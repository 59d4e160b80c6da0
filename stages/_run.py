"""What all stage scripts share: parameters, logging, errors as one line, and an exit code that is not 0 after an error."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ovseg.core.errors import OvsegError, describe_os_error
from ovseg.core.params import Params, read_params
from ovseg.engine.process import end_process, torchrun_command
from ovseg.engine.runtime import Runtime, from_environment
from ovseg.engine.terminal import fit_terminal, log_to_stderr

TRAINING_OPTIONS = """
Options of a training:
  --max-steps N  stop this run after N steps with a checkpoint; the next run
                 continues
  --fresh        forget an unfinished training, and start it anew
"""


def run_stage(stage: Callable[..., object], *arguments: str) -> None:
    """Call a stage with the checked parameters of params.yaml, and end the process with its exit code.

    Args:
        stage: called with the parameters, and with each argument of the command.
        arguments: the names of these arguments, such as "BENCHMARK"; any other is refused.
    """
    if "--help" in sys.argv[1:]:
        _print_help()
    parser = _parser()
    for name in arguments:
        parser.add_argument(name)
    given = vars(parser.parse_args()).values()
    end_process(_exit_code(lambda params: stage(params, *given)))


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
    if "--help" in sys.argv[1:]:
        _print_help(TRAINING_OPTIONS)
    if "RANK" not in os.environ:
        if code := _exit_code(_start_ranks):
            end_process(code)
    elif not is_first_rank():
        logging.disable(logging.INFO)
    end_process(_exit_code(stage))


def _print_help(options: str = "") -> NoReturn:
    """Print what the script of this process does and how it is run, and end the process."""
    about = textwrap.fill(str(sys.modules["__main__"].__doc__), 78)
    print(
        f"{about}\n\nIts parameters are in params.yaml: docs/reference.md.\n{options}\nExample:\n  {_example(_module())}"
    )
    end_process(0)


def _module() -> str:
    """The name of the script of this process."""
    main = sys.modules["__main__"]
    return str(main.__spec__.name) if main.__spec__ else Path(sys.argv[0]).stem


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m {_module()}", add_help=False)


def _example(module: str) -> str:
    """The command that runs a script: by DVC, if a dvc.yaml has it."""
    for dag in (Path("dvc.yaml"), *sorted(Path("data").glob("*/dvc.yaml"))):
        if re.search(rf"python -m {re.escape(module)}\b", dag.read_text(encoding="utf-8")):
            return f"dvc repro {dag if dag.parent.name else module.rpartition('.')[2]}"
    return f"python -m {module}"


def is_first_rank() -> bool:
    """Whether this process is the one of a training that writes its results."""
    return os.environ.get("RANK", "0") == "0"


def _start_ranks(_: Params) -> None:
    """Replace this process by torchrun if several processes are wanted; it runs the same script in each of them."""
    runtime = training_runtime()
    processes = runtime.processes or len(runtime.devices)
    kinds = {device.split(":")[0] for device in runtime.devices}
    if len(kinds) > 1 or ("cuda" in kinds and processes > len(runtime.devices)):
        raise OvsegError(
            f"{processes} processes cannot train on {', '.join(runtime.devices)}: each needs a GPU of its own"
        )
    if processes > 1:
        module = Path(sys.argv[0]).resolve().relative_to(Path.cwd()).with_suffix("")
        os.execv(sys.executable, torchrun_command(".".join(module.parts), processes, *sys.argv[1:]))  # noqa: S606


def training_runtime(max_dropped: float = 0.5) -> Runtime:
    """Read the runtime options of a training from the environment, and two more from the command line: `TRAINING_OPTIONS`.

    A device that is named twice, for two processes of mining, counts once.

    Args:
        max_dropped: the parameter `checks.max_dropped`.

    Raises:
        OvsegError: a number is not a positive integer.
    """
    parser = _parser()
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise OvsegError(f"--max-steps {arguments.max_steps} must be at least 1")
    runtime = from_environment(max_dropped)
    devices = tuple(dict.fromkeys(runtime.devices))
    return replace(runtime, devices=devices, stop_after=arguments.max_steps, fresh=arguments.fresh)
