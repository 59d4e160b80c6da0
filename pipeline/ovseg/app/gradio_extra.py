"""Gradio, which is an extra."""

from __future__ import annotations

import os
from typing import Any

from ovseg.core.errors import OvsegError


def import_gradio() -> Any:
    """Import Gradio with its telemetry switched off.

    Raises:
        OvsegError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise OvsegError(f"the app needs Gradio: pip install -e '.[app]' in the clone ({error})") from None
    return gradio
