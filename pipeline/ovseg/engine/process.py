"""How a process of ours starts and ends: without walking, again and again, all that torch and open_clip import."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def start_process() -> None:
    """Let Python look for unused cycles rarely; importing open_clip makes over a million objects, none of which is one."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 100)


def torchrun_command(module: str, processes: int, *arguments: str) -> list[str]:
    """Return the command that runs a module in several processes of this machine, as ranks of one training."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", module, *arguments]


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, as `sys.exit` would, but leave its memory to the operating system.

    Threads are waited for, exit functions run and output is written. What is left out is the interpreter's own clearing
    of modules, which takes a third of the time of a short command.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
