"""The demo in a real Chromium: ``make test-browser``. Waits are long because it may share its cores."""

import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import uvicorn
from PIL import Image

import vila_hd
from demo.examples import draw_examples
from demo.pictures import Limits
from demo.service import Service
from vila_hd.scenes import make_scene, questions, render, split_seeds

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

PATIENCE = 180_000
"""Milliseconds."""


class Running:
    """A demo on a free port of this machine."""

    def __init__(self, service, folder):
        from demo.launch import be_quiet, make_server

        be_quiet(folder)
        config = uvicorn.Config(make_server(service, parallel=2), port=0, log_level="warning")
        self.service, self._server = service, uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"

    def stop(self):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    service = Service(*vila_hd.load("nano"), folder, examples=draw_examples(folder / "examples", 2))
    service.prepare()
    running = Running(service, folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def rambling(tiny, tmp_path_factory):
    """A model that never comes to an end by itself."""
    folder = tmp_path_factory.mktemp("rambling")
    running = Running(Service(*tiny, folder, limits=Limits(new_tokens=3500)), folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium here: 'make test-browser' installs it")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens pages of a demo that must load nothing from elsewhere and must not fail in their scripts."""
    foreign, failures, contexts = [], [], []

    def open_(running, width=1440, height=900, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((running.url, "data:", "blob:"))
                else foreign.append(request.url)
            ),
        )
        page.goto(running.url)
        page.wait_for_selector("#composer textarea")
        page.wait_for_function("document.querySelector('#cost').innerText.includes('visual tokens')")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert foreign == []
    assert failures == []


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A 4K picture that is none of the examples, and questions about three of its signs."""
    seed = split_seeds("test", 9)[8]
    scene = make_scene(seed)
    path = tmp_path_factory.mktemp("town") / "town.png"
    Image.fromarray(render(scene)).save(path, compress_level=1)
    marks = [
        question
        for question in questions(scene, np.random.default_rng(0))
        if question.kind == "mark" and question.object_index is not None
    ]
    return path, [question.text for question in marks[:3]]


def ask(page, text, count):
    """Types a question and waits for the answer number ``count``."""
    page.locator("#composer textarea").fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('#chat small.cost').length == {count}")


def add(page, *paths):
    page.locator("#composer input[type=file]").set_input_files([str(path) for path in paths])
    page.wait_for_function(
        "document.querySelector('#lens iframe').contentDocument.documentElement.className.includes('plain')"
    )


def lens(page):
    """The frame of the lens once it shows an answer."""
    page.frame_locator("#lens iframe").locator("html:not(.plain-picture) .card").first.wait_for()
    return next(frame for frame in page.frames if frame.url.endswith("lens/view"))


def drawn(page, number):
    """What the lens draws of answer ``number``."""
    frame = "document.querySelector('#lens iframe').contentDocument"
    page.wait_for_function(f"{frame}.getElementById('p0-low')?.src.includes('/{number}_0_low')")
    page.wait_for_timeout(1000)  # until its images are read
    return page.evaluate(f"{frame}.getElementById('canvas').toDataURL()")


def test_the_page_opens_on_an_example_without_being_asked(nano, open_page):
    page = open_page(nano)
    assert "Example" in page.locator("#caption").inner_text()
    assert page.locator("#chat .example").count() == 2
    assert lens(page).locator(".card").count() == 3
    page.locator("#chat .example").first.click()
    page.wait_for_selector("#chat small.cost")
    assert page.locator("#chat .option").count() == 3


def test_a_4k_picture_is_asked_about_and_the_lens_follows_the_question(nano, open_page, town):
    path, texts = town
    page = open_page(nano)
    add(page, path)
    drawings = []
    for number, text in enumerate(texts, start=1):
        ask(page, text, number)
        page.wait_for_function(f"document.querySelector('#caption').innerText.includes({text!r})")
        drawings.append(drawn(page, number))
    assert len(set(drawings)) > 1  # the model may take one sign for another, but not all for one
    assert "visual tokens" in page.locator("#details .tiles").inner_text()
    for mode in ("saw", "scores", "original", "looked"):
        lens(page).locator(f"[data-mode={mode}]").click()
    page.locator("#chat .user.message", has_text=texts[0]).click()  # and back to the first answer
    assert drawn(page, 1) == drawings[0]
    assert texts[0] in page.locator("#caption").inner_text()


def test_an_answer_appears_while_it_is_written(nano, open_page, town, monkeypatch):
    from demo import service

    def slowly(*arguments, **options):
        for piece in service_stream(*arguments, **options):
            time.sleep(0.7)
            yield from ([piece] if not isinstance(piece, str) else [piece, "", ""])

    service_stream = service.stream
    monkeypatch.setattr(service, "stream", slowly)
    page = open_page(nano)
    add(page, town[0])
    page.evaluate(
        """() => {
          window.states = new Set();
          const chat = document.querySelector("#chat");
          new MutationObserver(() => {
            const bots = chat.querySelectorAll(".bot.message");
            if (bots.length) window.states.add(bots[bots.length - 1].innerText.trim());
          }).observe(chat, { childList: true, subtree: true, characterData: true });
        }"""
    )
    ask(page, town[1][0], 1)
    states = page.evaluate("[...window.states]")
    written = [
        state for state in states if state and not state.startswith("looking") and "patches" not in state
    ]
    assert written, states


def test_a_generation_can_be_stopped(rambling, open_page, upload):
    page = open_page(rambling)
    add(page, upload("street.png", size=(640, 480)))
    page.locator("#composer textarea").fill("what is here?")
    page.keyboard.press("Enter")
    page.locator("#composer .stop-button").click()
    page.wait_for_selector("#chat small.cost")
    assert "stopped" in page.locator("#chat small.cost").inner_text()
    page.wait_for_selector("#composer .submit-button")


def test_a_box_brings_more_looks_there(nano, open_page, town):
    page = open_page(nano)
    add(page, town[0])
    ask(page, town[1][0], 1)
    lens(page).locator("#draw-box").click()
    canvas = page.frame_locator("#lens iframe").locator("#canvas").bounding_box()
    at = lambda x, y: (canvas["x"] + canvas["width"] * x, canvas["y"] + canvas["height"] * y)  # noqa: E731
    page.mouse.move(*at(0.55, 0.55))
    page.mouse.down()
    page.mouse.move(*at(0.65, 0.7), steps=4)
    page.mouse.up()
    page.wait_for_selector("#box-words p")
    assert "looks closer there only" in page.locator("#box-words").inner_text()
    ask(page, town[1][1], 2)
    assert "patches added to what it saw before" in page.locator("#chat small.cost").last.inner_text()
    page.frame_locator("#lens iframe").locator(".passes").first.wait_for()
    assert "pass12" in lens(page).locator(".card").last.inner_text().replace("\n", "")
    assert not page.locator("#box-words p").is_visible()


def test_retry_uses_the_budget_of_now_and_edit_asks_something_else(nano, open_page, town):
    page = open_page(nano)
    add(page, town[0])
    ask(page, town[1][0], 1)
    cost = page.locator("#cost").inner_text()
    page.locator("#budget input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"document.querySelector('#cost').innerText != {cost!r}")
    before = page.locator("#chat small.cost").inner_text()
    page.locator("#chat button[aria-label=Retry]:visible").last.click()
    page.wait_for_function(
        f"(e => e && e.innerText != {before!r})(document.querySelector('#chat small.cost'))"
    )
    page.locator("#chat button[aria-label=Edit]:visible").last.click()
    page.locator("#chat textarea").fill(town[1][1])
    page.locator("#chat button[aria-label=Submit]:visible").last.click()
    page.wait_for_function(f"document.querySelector('#caption').innerText.includes({town[1][1]!r})")
    assert page.locator("#chat small.cost").count() == 1


def test_two_budgets_side_by_side(nano, open_page, town):
    page = open_page(nano)
    add(page, town[0])
    ask(page, town[1][0], 1)
    page.locator("#compare > button").click()
    page.locator("#compare-button").click()
    page.wait_for_selector("#right-lens iframe")
    page.wait_for_function("document.querySelector('#right-caption').innerText.includes('low-res view only')")
    assert "patches" in page.locator("#left-caption").inner_text()


def test_two_sessions_at_once_keep_to_themselves(nano, open_page, town):
    first, second = open_page(nano), open_page(nano)
    add(first, town[0])
    first.locator("#composer textarea").fill(town[1][0])
    first.keyboard.press("Enter")
    second.locator("#chat .example").nth(1).click()
    for page in (first, second):
        page.wait_for_selector("#chat small.cost")
    question = nano.service.examples[1].questions[0]
    assert question in second.locator("#chat").inner_text()
    assert question not in first.locator("#chat").inner_text()
    assert town[1][0] in first.locator("#caption").inner_text()
    assert town[1][0] not in second.locator("#chat").inner_text()


def test_who_waits_sees_the_place_in_the_queue(rambling, open_page, upload):
    pages = [open_page(rambling) for _ in range(4)]  # two are answered at a time
    for page in pages:
        add(page, upload("street.png"))
        page.locator("#composer textarea").fill("tell me everything")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chat .bot.message, #chat .meta-text:has-text('queue')")
    assert "queue: 2/2" in pages[-1].locator("#chat .meta-text").inner_text()
    for page in pages[:2]:
        page.locator("#composer .stop-button").click()
    pages[-1].wait_for_selector("#chat .bot.message")
    assert not pages[-1].locator("#chat .meta-text").is_visible()


def test_errors_are_told_in_the_page_with_their_reason(rambling, open_page, tmp_path):
    page = open_page(rambling)
    odd = tmp_path / "odd.png"
    odd.write_bytes(b"<html>")
    page.locator("#composer input[type=file]").set_input_files(str(odd))
    page.wait_for_selector("#notice .problem")
    assert "odd.png: a web page, not a picture" in page.locator("#notice").inner_text()


def test_a_report_is_downloaded_as_one_page(nano, open_page, town, tmp_path):
    page = open_page(nano)
    add(page, town[0])
    ask(page, town[1][0], 1)
    with page.expect_download(timeout=PATIENCE) as download:
        page.locator("#details .report").click()
    path = tmp_path / "report.html"
    download.value.save_as(path)
    assert town[1][0] in path.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_in_one_column(nano, open_page, scheme):
    page = open_page(nano, 390, 844, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#composer textarea").bounding_box()["width"] > 200
    assert page.locator("#lens iframe").bounding_box()["width"] > 340
    background = page.evaluate(
        "getComputedStyle(document.querySelector('.gradio-container')).backgroundColor"
    )
    assert background == {"light": "rgb(244, 246, 248)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert lens(page).evaluate("document.documentElement.dataset.theme") == scheme
    assert page.locator("[aria-label=Share]:visible").count() == 0  # it would upload to a server elsewhere


def test_the_lens_is_used_with_the_keyboard(nano, open_page):
    page = open_page(nano)
    canvas = lens(page).locator("#canvas")
    canvas.press("n")
    lens(page).locator("#place", has_text="place 1").wait_for()
    canvas.press("v")
    page.wait_for_selector("#box-words p")
    page.locator("#clear-box").click()
    page.wait_for_selector("#box-words p", state="hidden")


def test_closing_the_page_forgets_the_conversation(rambling, open_page, upload):
    limits = rambling.service.limits
    rambling.service.limits = replace(limits, new_tokens=4)
    page = open_page(rambling)
    add(page, upload())
    ask(page, "what is here?", 1)
    page.locator("#new").click()
    page.wait_for_selector("#chat .placeholder")
    assert page.locator("#chat small.cost").count() == 0
    rambling.service.limits = limits
