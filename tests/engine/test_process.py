"""A process that is ended without the interpreter's own clearing has done all that one that exits does."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_threads_exit_functions_and_output_are_finished_before_the_end() -> None:
    code = """
        import atexit, sys, threading, time
        from concurrent.futures import ThreadPoolExecutor
        from ovseg.engine.process import end_process, start_process

        start_process()
        atexit.register(print, "exit function")
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
        ThreadPoolExecutor(1).submit(print, "pool")
        print("no line end", end="", file=sys.stderr)
        end_process(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "no line end")
    assert sorted(done.stdout.split("\n")) == ["", "exit function", "pool", "thread"]
