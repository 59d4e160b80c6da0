"""The controls of the pairs of a run: filters, pages, and marks of wrong pairs. See `PairPages`."""

# Annotations are evaluated: Gradio finds the parameter that takes the data of an event by its type.

from collections.abc import Callable
from math import ceil
from typing import Any

from ovseg.app.pair_pages import ORDERS, PAGE, Filters, PairPages
from ovseg.app.segment_tab import read_script
from ovseg.app.view import message
from ovseg.core.errors import OvsegError
from ovseg.mining.wrong_pairs import WrongPair

TITLES = {
    "lowest": "Similarity, lowest first",
    "highest": "Similarity, highest first",
    "margin": "Margin, smallest first",
    "noun": "Noun, A to Z",
    "small": "Area, smallest first",
    "large": "Area, largest first",
}


def build_pairs_tab(gr: Any, pages: PairPages) -> Any:
    """Add the controls to the page that is being built, and return the function that shows the first page, with its parts.

    Args:
        gr: the module gradio.
        pages: the pairs.
    """
    low, high = round(pages.range[0] - 0.0005, 3), round(pages.range[1] + 0.0005, 3)
    with gr.Row():
        order = gr.Dropdown([(TITLES[name], name) for name in ORDERS], value="lowest", label="Sort by", min_width=200)
        noun = gr.Textbox(label="Noun", placeholder="all nouns", max_lines=1, min_width=160)
        least = gr.Slider(low, high, low, step=0.001, label="Smallest similarity", min_width=200)
        most = gr.Slider(low, high, high, step=0.001, label="Largest similarity", min_width=200)
        marked = gr.Checkbox(label="Only pairs marked as wrong", elem_classes="marked")
    with gr.Row(elem_classes="pager"):
        before = gr.Button("Previous", min_width=80)
        number = gr.Number(1, label="Page", minimum=1, precision=0, min_width=80)
        after = gr.Button("Next", min_width=80)
    status = gr.HTML(message(""))
    saved = gr.HTML(message(""))
    cards = gr.HTML(
        {"cards": []},
        html_template='<div class="cards"></div>',
        js_on_load=read_script("pairs.js"),
    )

    def count() -> str:
        number = len(pages.wrong)
        counted = f"{number:,} {'pair is' if number == 1 else 'pairs are'} marked as wrong"
        return message(f"{counted} in {pages.marks}; select.exclude reads this file.")

    def show(order: str, noun: str, least: float, most: float, marked: bool, number: float) -> tuple[Any, ...]:
        filters = Filters(order, noun or "", least, most, marked)  # type: ignore[arg-type] # of the choices of the control
        page = max(int(number or 1), 1) - 1
        shown, total = pages.page(filters, page)
        last = max(1, ceil(total / PAGE))
        if page >= last:
            page = last - 1
            shown, total = pages.page(filters, page)
        text = f"{total:,} of {len(pages.table):,} pairs, page {page + 1} of {last:,}"
        if missing := min(PAGE, total - page * PAGE) - len(shown):
            text += f"; {missing} of this page {'has' if missing == 1 else 'have'} no readable image"
        return {"cards": shown}, message(text), page + 1, count()

    def first(order: str, noun: str, least: float, most: float, marked: bool) -> tuple[Any, ...]:
        return show(order, noun, least, most, marked, 1)

    def turn(by: int) -> Callable[..., tuple[Any, ...]]:
        def turned(order: str, noun: str, least: float, most: float, marked: bool, number: float) -> tuple[Any, ...]:
            return show(order, noun, least, most, marked, (number or 1) + by)

        return turned

    def mark(event: gr.EventData) -> str:
        image_id, noun, proposal = event._data["pair"]
        pair, wrong = WrongPair(int(image_id), str(noun), int(proposal)), bool(event._data["wrong"])
        try:
            known = pages.mark(pair, wrong)
        except OvsegError as problem:
            return message(f"Nothing was written: {problem}", problem=True)
        return count() if known else message("This run has no such pair; nothing was written.", problem=True)

    chosen, shown = [order, noun, least, most, marked], [cards, status, number, saved]
    queue = {"concurrency_id": "pairs", "concurrency_limit": 1, "show_progress": "hidden"}
    changes = [order.change, noun.submit, noun.blur, least.change, most.change, marked.change]
    gr.on(changes, first, chosen, shown, **queue, trigger_mode="always_last", api_name="pairs")
    gr.on([number.submit], show, [*chosen, number], shown, **queue, api_visibility="private")
    before.click(turn(-1), [*chosen, number], shown, **queue, api_visibility="private")
    after.click(turn(1), [*chosen, number], shown, **queue, api_visibility="private")
    cards.mark(mark, None, saved, **queue, api_visibility="private")
    return first, chosen, shown
