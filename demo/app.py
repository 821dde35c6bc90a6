"""The layout of the page. What its parts do is in events.py."""

from pathlib import Path
from typing import Any

import gradio as gr

from . import fragments
from .events import GUIDES, Events, Parts
from .service import Service

HERE = Path(__file__).parent
FILES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".ppm", ".jp2", ".pdf"]

CLEAR_MARK = """() => {
  document.querySelector("#lens iframe").contentWindow.postMessage({ kind: "clear" }, location.origin);
}"""

MODEL: dict[str, Any] = {"concurrency_id": "model", "show_progress": "minimal", "api_visibility": "private"}
"""Events that run the model share one limit; one that waits for its turn shows its place in the queue."""

QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Events that only look something up."""


def build_app(service: Service) -> gr.Blocks:
    """The page of one service."""
    with gr.Blocks(
        title="VILA-HD", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as app:
        parts = lay_out(service)
        _connect(app, parts, Events(service, parts))
    return app


def lay_out(service: Service) -> Parts:
    """The parts in their places; inside of ``gr.Blocks``."""
    token = gr.State(None, delete_callback=service.sessions.close)
    gr.HTML(fragments.heading(service.name), elem_id="head")
    with gr.Row(elem_id="desk"):
        with gr.Column(scale=5, min_width=340, elem_id="talk"):
            chat = gr.Chatbot(
                elem_id="chat",
                show_label=False,
                layout="bubble",
                editable="user",
                group_consecutive_messages=False,  # Gradio cannot edit a group with a picture in it
                buttons=["copy"],
                feedback_options=None,
                height=None,
                placeholder=fragments.welcome(),
                examples=[
                    {
                        "text": example.questions[0],
                        "display_text": example.questions[0],
                        "icon": str(example.thumbnail),
                    }
                    for example in service.examples
                ],
            )
            with gr.Column(elem_id="ask"):
                notice = gr.HTML(elem_id="notice")
                with gr.Row(elem_id="box", visible=False) as box_row:
                    box = gr.HTML(elem_id="box-words")
                    clear_box = gr.Button("Remove", size="sm", elem_id="clear-box")
                composer = gr.MultimodalTextbox(
                    elem_id="composer",
                    show_label=False,
                    placeholder="Ask about a picture. Drop, paste or add pictures or PDF files here.",
                    file_count="multiple",
                    file_types=FILES,
                    sources=["upload"],
                    autofocus=True,
                    max_lines=6,
                )
                with gr.Row(elem_id="closely"):
                    guide = _guide_switch(service, "guide")
                    budget = _budget_slider(service, "budget", value=service.default_step)
                keep = gr.Checkbox(label="Add to what the last answer saw", elem_id="keep", container=False)
                with gr.Row(elem_id="foot"):
                    cost = gr.HTML(elem_id="cost", elem_classes="price")
                    new = gr.Button("New chat", size="sm", elem_id="new")
        with gr.Column(scale=7, min_width=340, elem_id="see"):
            caption = gr.HTML(elem_id="caption", elem_classes="caption-line")
            lens = _viewer("lens")
            details = gr.HTML(elem_id="details")
            other = _lay_out_comparison(service)
    with gr.Row(elem_id="versus", visible=False) as versus:
        sides = []
        for name in ("left", "right"):
            with gr.Column(min_width=320):
                words = gr.HTML(elem_id=f"{name}-caption", elem_classes="caption-line")
                sides += [words, _viewer(f"{name}-lens")]
    return Parts(
        token=token,
        chat=chat,
        notice=notice,
        box_row=box_row,
        box=box,
        clear_box=clear_box,
        composer=composer,
        guide=guide,
        keep=keep,
        budget=budget,
        cost=cost,
        new=new,
        caption=caption,
        lens=lens,
        details=details,
        versus=versus,
        **other,
        **dict(zip(("left_caption", "left_lens", "right_caption", "right_lens"), sides, strict=True)),
    )


def _viewer(elem_id: str) -> gr.HTML:
    """A Selection Lens in a frame of its own; its value is what to show, as JSON."""
    return gr.HTML(
        html_template='<iframe src="lens/view" title="Where the model looked"></iframe>',
        js_on_load=(HERE / "page.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        elem_classes="viewer",
    )


def _lay_out_comparison(service: Service) -> dict[str, Any]:
    with gr.Accordion("Compare with another budget or question", open=False, elem_id="compare"):
        question = gr.Textbox(
            placeholder="Another question; empty: the same one", show_label=False, lines=1, elem_id="other"
        )
        with gr.Row(elem_id="other-closely"):
            guide = _guide_switch(service, "other-guide")
            budget = _budget_slider(service, "other-budget", value=0)
        with gr.Row(elem_id="other-foot"):
            cost = gr.HTML(elem_id="other-cost", elem_classes="price")
            button = gr.Button("Compare", size="sm", elem_id="compare-button")
    return {
        "other_question": question,
        "other_guide": guide,
        "other_budget": budget,
        "other_cost": cost,
        "compare": button,
    }


def _guide_switch(service: Service, elem_id: str) -> gr.Radio:
    choices = [(GUIDES[each], each) for each in service.guides]
    return gr.Radio(
        choices, value=service.guides[0], label="Guided by", elem_id=elem_id, elem_classes="guide"
    )


def _budget_slider(service: Service, elem_id: str, *, value: int) -> gr.Slider:
    last = len(service.budgets) - 1
    return gr.Slider(
        0,
        max(last, 1),
        value=value,
        step=1,
        label="How closely to look",
        visible=last > 0,
        elem_id=elem_id,
        elem_classes="budget",
    )


def _connect(app: gr.Blocks, parts: Parts, events: Events) -> None:
    settings = [parts.token, parts.budget, parts.guide, parts.keep]
    answering = {**MODEL, "show_progress_on": parts.chat}
    everything = parts.outputs()
    app.load(events.open, None, everything, **QUICK)
    parts.new.click(events.start_over, [parts.token], everything, **QUICK)
    parts.composer.change(
        events.attach,
        [parts.token, parts.composer, parts.budget],
        everything,
        trigger_mode="always_last",
        **QUICK,
    )
    parts.composer.submit(events.ask, [*settings, parts.composer], everything, **answering)
    parts.composer.stop(events.stop, [parts.token], everything, **QUICK)
    parts.chat.retry(events.retry, settings, everything, **answering)
    parts.chat.edit(events.edit, settings, everything, **answering)
    parts.chat.example_select(events.example, settings, everything, **answering)
    parts.chat.option_select(events.suggestion, settings, everything, **answering)
    parts.chat.select(events.show, [parts.token], everything, **QUICK)
    parts.budget.input(
        events.cost, [parts.token, parts.budget], everything, trigger_mode="always_last", **QUICK
    )
    parts.other_budget.input(
        events.other_cost,
        [parts.token, parts.other_budget],
        everything,
        trigger_mode="always_last",
        **QUICK,
    )
    compared = [parts.token, parts.other_budget, parts.other_guide, parts.other_question]
    for start in (parts.compare.click, parts.other_question.submit):
        start(events.compare, compared, everything, show_progress_on=parts.other_cost, **MODEL)
    parts.lens.select(events.mark, [parts.token], everything, **QUICK)
    parts.clear_box.click(None, None, None, js=CLEAR_MARK)
    parts.clear_box.click(events.clear_box, [parts.token], everything, **QUICK)
