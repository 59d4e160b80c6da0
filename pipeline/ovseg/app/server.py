"""The page of `ovseg app`, and what it may do: this machine alone, no telemetry, uploaded files and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovseg.app.answers import Answers
from ovseg.app.gradio_extra import import_gradio
from ovseg.app.pair_pages import PairPages
from ovseg.app.pairs_tab import build_pairs_tab
from ovseg.app.segment_handlers import SegmentHandlers
from ovseg.app.segment_tab import Start, build_segment_tab, read_script
from ovseg.core.errors import OvsegError

LOOPBACK = "127.0.0.1"
MAX_UPLOAD = "64mb"  # of one file
QUEUE = 32  # requests that wait; more are refused
DELETE_CACHE = (600, 3600)  # seconds: how often uploads are looked through, and how old they get
CONTRAST = {
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "checkbox_border_color": "*neutral_500",
    "checkbox_border_color_dark": "*neutral_400",
}
FONTS = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}  # of the system: none is fetched


@contextmanager
def serve(
    answers: Answers,
    start: Start,
    pages: PairPages | None = None,
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    share: bool = False,
) -> Iterator[str]:
    """Serve the page while the context is open.

    Args:
        answers: the models.
        start: what the controls show at first.
        pages: the pairs of a run; None for no tab of pairs.
        host: the address to listen at; the default is reached from this machine alone.
        port: None for a free one from 7860.
        share: whether Gradio makes a public link through its own servers.

    Yields:
        the page's address.

    Raises:
        OvsegError: Gradio is not installed, or the port is taken.
    """
    gr = import_gradio()
    with tempfile.TemporaryDirectory(prefix="ovseg-app-") as outputs:
        page = build_page(gr, answers, start, pages, Path(outputs))
        page.queue(max_size=QUEUE)
        try:
            _, address, link = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
                show_error=True,
                footer_links=[],
                max_file_size=MAX_UPLOAD,
                allowed_paths=[str(path.resolve()) for path in start.examples],
                ssr_mode=False,
                theme=gr.themes.Default(primary_hue="indigo", **FONTS).set(**CONTRAST),
                css=read_script("app.css"),
                js=read_script("sliders.js"),
            )
        except OSError as error:
            raise OvsegError(f"the page cannot be served at {host}:{port or '7860 and above'}: {error}") from None
        try:
            yield link or address
        finally:
            page.close()


def build_page(gr: Any, answers: Answers, start: Start, pages: PairPages | None, outputs: Path) -> Any:
    """Build the page, with a tab for segmentation and, if there are pairs, one for them."""
    with gr.Blocks(title="ovseg", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(
            "# Open-vocabulary segmentation\nDrop an image and type words: each pixel gets the word that fits it best."
        )
        with gr.Tab("Segment"):
            build_segment_tab(gr, SegmentHandlers(answers, outputs), start)
        if pages is not None:
            with gr.Tab("Pairs"):
                first, chosen, shown = build_pairs_tab(gr, pages)
            page.load(first, chosen, shown, show_progress="hidden", api_visibility="private")
    return page
