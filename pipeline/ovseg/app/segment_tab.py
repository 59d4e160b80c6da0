"""The controls of segmentation and what each of them calls, see `SegmentHandlers`."""

# Annotations are evaluated: Gradio finds the parameter that takes the data of an event by its type.

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ovseg.app.segment_handlers import THRESHOLDS, SegmentHandlers
from ovseg.app.view import message

OPACITY = 0.6
EXAMPLES_HEIGHT, BATCH_HEIGHT = 190, 200  # pixels: two rows of examples; three files
SET_OPACITY = "(value) => document.documentElement.style.setProperty('--opacity', value)"
QUEUE = {"concurrency_id": "models", "concurrency_limit": 1}
SILENT = {**QUEUE, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Start:
    """What the controls show at first.

    Attributes:
        words: see `read_question`.
        weight: in [0, 1].
        threshold: in (0, 1).
        examples: image files.
    """

    words: str = ""
    weight: float = 0.7
    threshold: float = 0.4
    examples: Sequence[Path] = ()


def build_segment_tab(gr: Any, handlers: SegmentHandlers, start: Start) -> None:
    """Add the controls to the page that is being built.

    Args:
        gr: the module gradio.
        handlers: what the controls call.
        start: what they show at first.
    """
    with gr.Row(elem_classes="segment"):
        with gr.Column(scale=1, min_width=300, elem_classes="question"):
            image = gr.File(label="Image", type="filepath", height=140)
            gallery = gr.Gallery(
                [str(path) for path in start.examples],
                label="Examples",
                columns=4,
                height=EXAMPLES_HEIGHT,
                allow_preview=False,
                visible=bool(start.examples),
                buttons=[],
                elem_classes="examples",
            )
            words = gr.Textbox(
                start.words,
                label='Words between commas; "tree | bush" are two names of one class',
                placeholder="cat, sofa | couch, grass",
            )
            button = gr.Button("Segment", variant="primary")
        with gr.Column(scale=3, min_width=300, elem_classes="answer"):
            view = gr.HTML(None, html_template='<div class="view"></div>', js_on_load=read_script("view.js"))
            status = gr.HTML(message(""))
            regions = gr.HTML("")
            save = gr.Button("Make overlay, label map and JSON", size="sm")
            files = gr.File(
                label="Overlay, label map and JSON", file_count="multiple", interactive=False, visible=False
            )
            with gr.Accordion("Many images", open=False):
                batch = gr.File(label="Images", file_count="multiple", type="filepath", height=BATCH_HEIGHT)
                save_batch = gr.Button("Segment all", size="sm")
                batch_status = gr.HTML(message(""))
                archive = gr.File(label="Zip of all answers", interactive=False, visible=False)
        with gr.Column(scale=1, min_width=300, elem_classes="settings"):
            weight = gr.Slider(0, 1, start.weight, step=0.05, label="Weight of CLIP")
            threshold = gr.Slider(min(THRESHOLDS), max(THRESHOLDS), start.threshold, step=0.1, label="Mask threshold")
            opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity")
            others = gr.Checkbox(label='"others": one more class for what fits no word')

    def describe(event: gr.EventData, path: str | None, *asked: Any) -> str:
        return handlers.describe(event._data, path, *asked)

    def save_files(path: str | None, *asked: Any) -> tuple[Any, str]:
        written, text = handlers.save(path, *asked)
        return gr.update(value=written, visible=written is not None), text

    def save_archive(paths: list[str] | None, *asked: Any) -> tuple[Any, str]:
        written, text = handlers.save_batch(paths, *asked)
        return gr.update(value=written, visible=written is not None), text

    def choose(event: gr.SelectData) -> str:
        return str(start.examples[event.index])

    asked, shown = [words, weight, threshold, others], [view, status, regions]
    begin = [image.change, words.submit, button.click]
    first = gr.on(begin, handlers.show, [image, *asked], shown, trigger_mode="always_last", api_name="segment", **QUEUE)
    first.then(handlers.prepare, [image, words], None, **SILENT)
    sliders = [weight.change, threshold.change, others.change]
    gr.on(sliders, handlers.show, [image, *asked], shown, trigger_mode="always_last", **SILENT)
    view.pick(describe, [image, *asked], regions, **SILENT)
    opacity.input(None, opacity, None, js=SET_OPACITY)
    gallery.select(choose, None, image, api_visibility="private")
    save.click(save_files, [image, *asked], [files, status], api_name="files", **QUEUE)
    save_batch.click(save_archive, [batch, *asked], [archive, batch_status], api_name="batch", **QUEUE)


def read_script(name: str) -> str:
    """Return the text of a script or style sheet of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
