"""What every stage script does around its one call: logging, errors in one line, an exit code that says so."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from ovseg.errors import OvsegError
from ovseg.params import Params, read_params


def run_stage(stage: Callable[[Params], object]) -> None:
    """Call a stage with the checked params.yaml."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        stage(read_params())
    except OvsegError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("Stopped. What is finished is kept: run the same command again to continue.", file=sys.stderr)
        sys.exit(130)
