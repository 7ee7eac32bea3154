"""The page in a real browser, on the real server, with a scripted model behind it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from rag.config import BUNDLED_MODEL, Settings
from rag.embed.prepare import FOLDER, is_sound
from rag.engine import Engine
from tests.conftest import KNOWLEDGE
from tests.scripted_model import (
    DEADLINE,
    Connection,
    ScriptedModel,
    answer,
    cut,
    gated,
    late,
    stalled,
    status,
    tool_calls,
)
from tests.served import fake_engine, scripted, served

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LEAVE = "Staff with ten years of service have 15 days of annual leave."
HOTEL = "工作满十年的员工有十五天年假。"
EVIL = '<img src=x onerror="window.hurt=1"><script>window.hurt=2</script>'
DOCUMENTS = {
    "leave.md": f"# Annual leave\n\nRead this first.\n\n{LEAVE} Unused days expire.\n",
    "年假.txt": f"𠮷野家👩‍👩‍👧🏖️的规定，𠀋共三条。\n\n第一条。{HOTEL}第二条。\n",
    "evil.html": f"<h1>Evil annals</h1><p>Evil text is {EVIL.replace('<', '&lt;')} indeed.</p>",
}
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=DEADLINE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page in a browser of its own, which may meet no error and no other server."""
    with ExitStack() as stack:
        wrong: list[str] = []

        def start(
            url: str, *, viewport: dict[str, int] = DESK, locale: str = "en-US", **more: object
        ) -> Page:
            context = browser.new_context(viewport=viewport, locale=locale, **more)  # type: ignore[arg-type]
            stack.callback(context.close)
            context.set_default_timeout(DEADLINE * 1000)
            page = context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda m: "Content Security" in m.text and wrong.append(m.text))
            page.on("request", lambda r: _is_far(r.url, url) and wrong.append(r.url))
            page.goto(url)
            return page

        yield start
        assert wrong == []


def _is_far(url: str, server: str) -> bool:
    return not url.startswith((server, "data:", "blob:"))


@dataclass(frozen=True)
class Site:
    """A server, and the engine in it."""

    url: str
    engine: Engine


Serve = Callable[..., Site]
PLAIN = {"vision": True, "cache": False, "retry_attempts": 1, "extractive_fallback": False}


@pytest.fixture
def serve(model: ScriptedModel, settings: Settings, folder: Callable[..., Path]) -> Iterator[Serve]:
    """Starts servers over the documents, answering with the scripted model, which can see. What
    fails there fails at once, and every question reaches the model; settings may change that."""
    with ExitStack() as stack:

        def start(**more: object) -> Site:
            unset = settings.model_dump(exclude_unset=True)
            engine = fake_engine(Settings(**(unset | scripted(model.url) | PLAIN | more)))
            engine.ingest([folder(**DOCUMENTS)])
            return Site(stack.enter_context(served(engine)), engine)

        yield start


@pytest.fixture
def url(serve: Serve) -> str:
    return serve().url


@pytest.fixture
def page(visit: Open, url: str) -> Page:
    return visit(url)


def ask(page: Page, question: str) -> Locator:
    """The answer, as soon as it is on the page."""
    before = page.get_by_test_id("answer").count()
    page.get_by_test_id("question").fill(question)
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("answer")).to_have_count(before + 1)
    return page.get_by_test_id("answer").last


def ended(answer: Locator, state: str) -> Locator:
    expect(answer).to_have_attribute("data-state", state)
    return answer


def marked(page: Page) -> str:
    """What is marked in the document that is open."""
    expect(page.get_by_test_id("panel-mark").first).to_be_in_viewport()
    return "".join(page.get_by_test_id("panel-mark").all_text_contents())


# --- answers ------------------------------------------------------------------------------------


def test_an_answer_is_seen_while_it_is_written(page: Page, model: ScriptedModel) -> None:
    gate = threading.Event()
    model.next(gated(gate, "You have **15", " days** [1]."))
    found = ask(page, "How many days of annual leave?")
    expect(found.get_by_test_id("answer-text")).to_have_text("You have 15")
    expect(found).to_have_attribute("data-state", "streaming")
    expect(page.get_by_test_id("stop")).to_be_visible()
    gate.set()
    ended(found, "done")
    expect(found.get_by_test_id("answer-text")).to_have_text("You have 15 days 1.")
    expect(found.locator("strong")).to_have_text("15 days")
    expect(found.get_by_test_id("facts")).to_contain_text("scripted")
    expect(page.get_by_test_id("send")).to_be_visible()


@pytest.mark.parametrize(
    ("question", "reply", "quote"),
    [
        ("annual leave after ten years of service", f"{LEAVE} [1]", LEAVE),
        ("工作满十年的员工有几天年假", "工作满十年有十五天年假[1]。", f"第一条。{HOTEL}"),
    ],
)
def test_a_citation_opens_its_passage_marked_to_the_character(
    page: Page, model: ScriptedModel, question: str, reply: str, quote: str
) -> None:
    model.next(answer(reply))
    found = ended(ask(page, question), "done")
    found.get_by_test_id("citation").first.click()
    expect(page.get_by_test_id("panel")).to_be_visible()
    assert marked(page) in (quote, quote.removeprefix("第一条。"))
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("panel")).to_be_hidden()
    expect(found.get_by_test_id("citation").first).to_be_focused()


def test_a_refusal_is_shown_as_one(page: Page, model: ScriptedModel) -> None:
    model.next(answer("The documents do not hold an answer to this question."))
    found = ended(ask(page, "Who is the mayor?"), "refused")
    expect(found.get_by_test_id("refusal")).to_have_text("Not in the documents")
    expect(found.get_by_test_id("citation")).to_have_count(0)


def test_an_answer_that_breaks_off_keeps_its_text_and_can_be_tried_again(
    page: Page, model: ScriptedModel
) -> None:
    model.next(cut("You have 15"), answer("15 days [1]."))
    found = ended(ask(page, "annual leave"), "failed")
    expect(found.get_by_test_id("answer-text")).to_contain_text("You have 15")
    expect(found.get_by_test_id("error")).to_contain_text("The answer broke off")
    expect(found.get_by_test_id("error")).to_have_attribute("data-code", "model_stream")
    found.get_by_test_id("retry").click()
    ended(found, "done")
    expect(found.get_by_test_id("answer-text")).to_have_text("15 days 1.")
    expect(found.get_by_test_id("error")).to_have_count(0)
    assert len(model.requests) == 2


def test_a_model_that_refuses_access_is_told_with_what_to_do(
    page: Page, model: ScriptedModel
) -> None:
    model.next(status(401))
    found = ended(ask(page, "annual leave"), "failed")
    expect(found.get_by_test_id("error")).to_contain_text("OPENAI_API_KEY")


def test_a_lost_connection_is_told_and_can_be_tried_again(page: Page, model: ScriptedModel) -> None:
    page.context.set_offline(True)
    found = ended(ask(page, "annual leave"), "failed")
    expect(found.get_by_test_id("error")).to_have_attribute("data-code", "connection")
    page.context.set_offline(False)
    found.get_by_test_id("retry").click()
    ended(found, "done")


def test_stopping_ends_the_call_to_the_model(page: Page, model: ScriptedModel) -> None:
    model.next(stalled("You have 15"))
    found = ask(page, "annual leave")
    expect(found.get_by_test_id("answer-text")).to_have_text("You have 15")
    page.get_by_test_id("stop").click()
    ended(found, "done")
    expect(found.get_by_test_id("notice")).to_contain_text("You stopped this answer")
    assert model.wait_for(1).gone.wait(DEADLINE)
    ended(ask(page, "annual leave again"), "done")  # and one can go on
    assert [m["role"] for m in model.requests[1].body["messages"]] == ["system", "user"]


def test_a_conversation_goes_on_until_a_new_one(page: Page, model: ScriptedModel) -> None:
    model.next(answer("15 days [1]."))
    ended(ask(page, "annual leave"), "done")
    ended(ask(page, "And unused days?"), "done")
    assert [m["content"] for m in model.requests[1].body["messages"][1:]] == [
        "annual leave",
        "15 days [1].",
        "And unused days?",
    ]
    page.get_by_test_id("new-chat").click()
    expect(page.get_by_test_id("answer")).to_have_count(0)
    ended(ask(page, "annual leave"), "done")
    assert len(model.requests[2].body["messages"]) == 2


def test_the_keyboard_is_enough(page: Page, model: ScriptedModel) -> None:
    model.next(answer("15 days [1]."))
    box = page.get_by_test_id("question")
    expect(box).to_be_focused()
    page.keyboard.type("annual")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("leave")
    page.keyboard.press("Enter")
    found = ended(page.get_by_test_id("answer").last, "done")
    assert model.requests[0].question == "annual\nleave"
    found.get_by_test_id("citation").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("panel")).to_be_visible()


def test_a_picture_goes_with_the_question(page: Page, model: ScriptedModel) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    picture = {"name": "red.png", "mimeType": "image/png", "buffer": file.getvalue()}
    expect(page.get_by_test_id("attach")).to_be_visible()  # once it is known that the model sees
    page.get_by_test_id("image-input").set_input_files([picture])  # type: ignore[list-item]
    expect(page.get_by_test_id("thumb")).to_have_count(1)
    ended(ask(page, "annual leave in this chart"), "done")
    sent = model.requests[0].body["messages"][-1]["content"][1]["image_url"]["url"]
    assert sent == "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    expect(page.get_by_test_id("thumb")).to_have_count(0)


def test_a_picture_whose_text_can_be_read_may_go_to_a_model_that_cannot_see(
    visit: Open, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(serve(vision=False).url)
    expect(page.get_by_test_id("preset-choice")).to_be_visible()  # all is known
    expect(page.get_by_test_id("attach")).to_be_hidden()
    monkeypatch.setattr(Engine, "reads_images", property(lambda _: True))
    page.reload()
    expect(page.get_by_test_id("attach")).to_be_visible()


def test_a_model_that_sees_may_be_chosen_for_pictures(visit: Open, serve: Serve) -> None:
    models = ({"name": "blind"}, {"name": "seeing", "vision": True})
    page = visit(serve(model=None, models=models, vision=False).url)
    expect(page.get_by_test_id("model-choice")).to_be_visible()
    expect(page.get_by_test_id("attach")).to_be_visible()  # whichever sees would be asked
    page.get_by_test_id("model-choice").select_option("blind")
    expect(page.get_by_test_id("attach")).to_be_hidden()
    page.get_by_test_id("model-choice").select_option("seeing")
    expect(page.get_by_test_id("attach")).to_be_visible()


def test_without_a_model_it_is_said_that_passages_are_quoted(
    visit: Open, settings: Settings, folder: Callable[..., Path]
) -> None:
    engine = fake_engine(settings)
    engine.ingest([folder(**DOCUMENTS)])
    with served(engine) as url:
        page = visit(url)
        expect(page.get_by_test_id("model")).to_have_text("Quotes only, no chat model")
        expect(page.get_by_test_id("attach")).to_be_hidden()
        found = ended(ask(page, "annual leave after ten years of service"), "done")
        expect(found.get_by_test_id("notice")).to_contain_text("No chat model is configured")
        page.get_by_test_id("language").click()
        expect(found.get_by_test_id("notice")).to_contain_text("尚未配置对话模型")
        page.get_by_test_id("language").click()
        found.get_by_test_id("citation").first.click()
        assert marked(page) == LEAVE
        found = ended(ask(page, "工作满十年的员工有几天年假"), "done")
        expect(found.get_by_test_id("notice")).to_contain_text("No chat model is configured")


# --- models and presets -------------------------------------------------------------------------

TWO_MODELS = {"model": None, "models": ({"name": "quick"}, {"name": "careful"})}


def test_one_model_is_no_choice_and_presets_fold_into_one_control(
    page: Page, model: ScriptedModel
) -> None:
    expect(page.get_by_test_id("preset-choice")).to_be_visible()
    expect(page.get_by_test_id("model-choice")).to_be_hidden()
    expect(page.get_by_test_id("model")).to_have_text("scripted")
    ended(ask(page, "annual leave"), "done")
    expect(page.get_by_test_id("preset-choice")).not_to_contain_text("code_completion")


def test_the_model_and_the_preset_chosen_answer_and_are_remembered(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(**TWO_MODELS).url)
    choice, preset = page.get_by_test_id("model-choice"), page.get_by_test_id("preset-choice")
    expect(choice.locator("option:checked")).to_have_text("Automatic")
    expect(page.get_by_test_id("model")).to_be_hidden()  # it would name another than is chosen
    ended(ask(page, "annual leave"), "done")
    choice.select_option("careful")
    preset.select_option("customer_support")
    found = ended(ask(page, "annual leave"), "done")
    expect(found.get_by_test_id("facts")).to_contain_text("careful")
    assert [request.body["model"] for request in model.requests] == ["quick", "careful"]
    usual, support = (request.body["messages"][0]["content"] for request in model.requests)
    assert "customer service" in support
    assert "customer service" not in usual
    page.reload()
    expect(choice).to_have_value("careful")
    expect(preset).to_have_value("customer_support")
    choice.select_option("")
    page.reload()
    expect(choice).to_have_value("")


def test_a_model_chosen_earlier_that_is_gone_is_not_asked_for(visit: Open, serve: Serve) -> None:
    page = visit(serve(**TWO_MODELS).url)
    page.evaluate("localStorage.setItem('knowledge.model', 'retired')")
    page.reload()
    expect(page.get_by_test_id("model-choice")).to_have_value("")
    ended(ask(page, "annual leave"), "done")


def test_a_browser_that_remembers_nothing_can_still_choose(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(**TWO_MODELS).url)
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })"
    )
    page.reload()
    page.get_by_test_id("model-choice").select_option("careful")
    ended(ask(page, "annual leave"), "done")
    assert model.requests[0].body["model"] == "careful"


def test_a_model_that_is_not_available_is_marked_and_says_so_when_asked(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(**TWO_MODELS, breaker_failures=1).url)
    page.get_by_test_id("model-choice").select_option("careful")
    model.next(status(500))
    found = ended(ask(page, "annual leave"), "failed")
    option = page.get_by_test_id("model-choice").locator("option[value=careful]")
    expect(option).to_have_text("careful (not available at present)")
    found.get_by_test_id("retry").click()
    expect(found.get_by_test_id("error")).to_have_attribute("data-code", "circuit_open")
    expect(found.get_by_test_id("error")).to_contain_text("is not available at present")
    page.get_by_test_id("language").click()
    expect(option).to_have_text("careful（暂不可用）")
    page.get_by_test_id("model-choice").select_option("quick")
    found.get_by_test_id("retry").click()
    ended(found, "done")  # by the other


def test_waiting_for_another_try_is_told_until_text_comes(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(retry_attempts=2).url)
    gate = threading.Event()
    model.next(status(429, {"Retry-After": "1"}), late(gate, answer("15 days [1].")))
    found = ask(page, "annual leave")
    expect(found.get_by_test_id("progress")).to_have_text(
        re.compile(r"^scripted has too many requests; asking again in 1\.\d s$")
    )
    gate.set()
    ended(found, "done")
    expect(found.get_by_test_id("progress")).to_have_count(0)
    expect(found.get_by_test_id("answer-text")).to_have_text("15 days 1.")


def test_another_model_taking_over_is_told(visit: Open, serve: Serve, model: ScriptedModel) -> None:
    page = visit(serve(**TWO_MODELS).url, locale="zh-CN")
    gate = threading.Event()
    model.next(status(500), late(gate, answer("15 days [1].")))
    found = ask(page, "annual leave")
    expect(found.get_by_test_id("progress")).to_have_text("quick 无法连接，改问 careful")
    gate.set()
    ended(found, "done")
    expect(found.get_by_test_id("facts")).to_contain_text("careful")


def test_a_budget_that_is_used_up_is_said(visit: Open, serve: Serve) -> None:
    priced = {"name": "scripted", "price_in": 1.0, "price_out": 1.0}
    page = visit(serve(models=(priced,), budgets=({"day": 0.0},)).url)
    found = ended(ask(page, "annual leave"), "failed")
    expect(found.get_by_test_id("error")).to_have_attribute("data-code", "budget")
    expect(found.get_by_test_id("error")).to_contain_text("The budget for chat models is used up")


def test_passages_in_a_models_place_come_with_the_servers_words(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(extractive_fallback=True).url)
    model.next(status(500))
    found = ended(ask(page, "annual leave after ten years of service"), "done")
    expect(found.get_by_test_id("notice")).to_contain_text("No chat model can answer now")
    expect(found.get_by_test_id("answer-text")).to_contain_text(LEAVE)


# --- below an answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "shown"), [(10.0, "$0.0013"), (0.1, "< $0.0001"), (10_000.0, "$1.27")]
)
def test_what_an_answer_cost_stands_below_it(
    visit: Open, serve: Serve, price: float, shown: str
) -> None:
    priced = {"name": "scripted", "price_in": price, "price_out": price}
    page = visit(serve(models=(priced,)).url)
    facts = ended(ask(page, "annual leave"), "done").get_by_test_id("facts")
    expect(facts).to_have_text(re.compile(rf"^scripted · {re.escape(shown)} · \d\.\d\d s$"))
    expect(facts).to_have_attribute("title", "120 tokens read, 7 written")


def test_tokens_that_nobody_counted_are_marked_as_about(page: Page, model: ScriptedModel) -> None:
    model.next(answer("15 days [1].", usage=False))
    facts = ended(ask(page, "annual leave"), "done").get_by_test_id("facts")
    expect(facts).to_have_attribute("title", re.compile(r"^~\d+ tokens read, ~\d+ written$"))
    expect(facts).not_to_contain_text("$")


def test_an_answer_from_the_cache_says_so_and_can_be_asked_for_anew(
    visit: Open, serve: Serve, model: ScriptedModel
) -> None:
    page = visit(serve(cache=True).url)
    model.next(answer("15 days [1]."), answer("Fifteen days [1]."), answer("They expire [1]."))
    first = ended(ask(page, "annual leave"), "done")
    expect(first.get_by_test_id("anew")).to_have_count(0)
    page.get_by_test_id("new-chat").click()
    found = ended(ask(page, "annual leave"), "done")
    expect(found.get_by_test_id("facts")).to_contain_text("from the cache")
    assert len(model.requests) == 1
    found.get_by_test_id("anew").click()
    expect(found.get_by_test_id("answer-text")).to_have_text("Fifteen days 1.")
    ended(found, "done")
    expect(found.get_by_test_id("facts")).not_to_contain_text("from the cache")
    expect(page.get_by_test_id("question")).to_be_focused()
    # The answer it had is not told to the model.
    assert [m["role"] for m in model.requests[1].body["messages"]] == ["system", "user"]


# --- tools --------------------------------------------------------------------------------------


def calls(**arguments: object) -> list[tuple[str, str]]:
    """Calls of tools by name; a string is sent as it is."""
    return [(n, a if isinstance(a, str) else json.dumps(a)) for n, a in arguments.items()]


@pytest.fixture
def analyst(visit: Open, serve: Serve) -> Page:
    """A page whose answers may use tools."""
    return visit(serve(preset="analyst", models=({"name": "scripted", "tools": True},)).url)


def test_what_tools_did_is_listed_folded_and_opens(analyst: Page, model: ScriptedModel) -> None:
    wanted = calls(calculate={"expression": "12*7"})
    model.next(tool_calls(*wanted), answer("It is 84 [1]."))
    found = ended(ask(analyst, "annual leave of twelve weeks"), "done")
    call = found.get_by_test_id("tool-call")
    expect(call.locator("summary")).to_have_text("Calculated: 12*7 = 84")
    expect(call.get_by_text("expression: 12*7")).to_be_hidden()
    call.locator("summary").focus()
    analyst.keyboard.press("Enter")
    expect(call.get_by_text("expression: 12*7")).to_be_visible()
    analyst.get_by_test_id("language").click()
    expect(call.locator("summary")).to_have_text("计算：12*7 = 84")


def test_a_tool_that_failed_is_marked(analyst: Page, model: ScriptedModel) -> None:
    model.next(tool_calls(*calls(calculate={"expression": "1/0"})), answer("I do not know [1]."))
    found = ended(ask(analyst, "annual leave"), "done")
    call = found.get_by_test_id("tool-call")
    expect(call.locator("summary")).to_have_text("Calculated: 1/0did not work")
    expect(call).to_have_attribute("data-failed", "")


def test_a_database_that_was_asked_is_named(
    visit: Open, serve: Serve, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as shop:
        shop.execute("CREATE TABLE rooms (name TEXT)")
        shop.execute("INSERT INTO rooms VALUES ('Plum')")
    shop.close()
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path / 'shop.db'}")
    given = {"databases": ({"name": "shop", "url_env": "SHOP_URL"},), "preset": "analyst"}
    page = visit(serve(models=({"name": "scripted", "tools": True},), **given).url)
    wanted = calls(query_database={"sql": "SELECT name FROM rooms", "database": "shop"})
    model.next(tool_calls(*wanted), answer("Plum."))
    found = ended(ask(page, "annual leave rooms"), "done")
    call = found.get_by_test_id("tool-call")
    expect(call.locator("summary")).to_have_text("Queried the database shop")
    call.locator("summary").click()
    expect(call).to_contain_text("SELECT name FROM rooms")
    expect(call).to_contain_text("Plum")


def test_what_a_model_gives_a_tool_stays_text(analyst: Page, model: ScriptedModel) -> None:
    odd = calls(calculate={"expression": EVIL}, nothing=f"{EVIL} is no JSON")
    model.next(tool_calls(*odd), answer("Done [1]."))
    found = ended(ask(analyst, "annual leave"), "done")
    expect(found.get_by_test_id("tool-call")).to_have_count(2)
    expect(found.get_by_test_id("tools")).to_contain_text(EVIL)
    expect(found.locator("img, script")).to_have_count(0)
    assert analyst.evaluate("window.hurt") is None


def test_what_a_model_looked_up_replaces_the_passages_found(
    visit: Open, serve: Serve, model: ScriptedModel, settings: Settings
) -> None:
    """The first search is let find one passage only."""
    given = {"preset": "analyst", "top_k": 1, "models": ({"name": "scripted", "tools": True},)}
    page = visit(serve(**given).url)
    gate = threading.Event()
    wanted = calls(search_knowledge={"question": "工作满十年的员工有十五天年假"})
    model.next(tool_calls(*wanted), late(gate, looked_up))
    found = ask(page, "annual leave after ten years of service")
    call = found.get_by_test_id("tool-call").locator("summary")
    expect(call).to_have_text("Looked up again: 工作满十年的员工有十五天年假")
    expect(found.get_by_test_id("progress")).to_have_text(re.compile(r"^Reading \d passages$"))
    gate.set()
    ended(found, "done")
    found.get_by_test_id("citation").last.click()
    expect(page.get_by_test_id("panel")).to_contain_text("𠮷野家")
    assert HOTEL in marked(page)


def looked_up(connection: Connection) -> None:
    """Cites the source that a search has brought."""
    result = connection.request.body["messages"][-1]["content"]
    number = re.search(r'<source n="(\d+)"(?:(?!</source>).)*十五天年假', result, re.DOTALL)
    assert number is not None
    assert int(number[1]) > 1
    answer(f"{LEAVE} [1] {HOTEL} [{number[1]}]")(connection)


# --- approval -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """An answer that waits, and how often the page asked after it."""

    page: Page
    answer: Locator
    engine: Engine
    asked: list[str]

    def decide(self, *, approve: bool, note: str = "") -> None:
        (review,) = self.engine.reviews.list("waiting")
        self.engine.decide(review.id, approve=approve, reviewer="eve", note=note)


@pytest.fixture
def held(visit: Open, serve: Serve, model: ScriptedModel) -> Held:
    site = serve(presets={"careful": {"review": True}}, preset="careful")
    page = visit(site.url)
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: "/reviews/" in request.url and asked.append(request.url))
    model.next(answer(f"{LEAVE} [1]"))
    found = ended(ask(page, "annual leave after ten years of service"), "held")
    expect(found.get_by_test_id("held")).to_contain_text("Waiting for approval")
    expect(found.get_by_test_id("held")).to_contain_text("(style: careful)")
    expect(found.get_by_test_id("answer-text")).to_be_empty()
    expect(page.get_by_test_id("send")).to_be_visible()  # one can go on
    return Held(page, found, site.engine, asked)


def test_a_held_answer_appears_when_it_is_approved(held: Held) -> None:
    held.decide(approve=True, note="Checked.")
    held.page.clock.fast_forward(3_000)
    found = ended(held.answer, "done")
    expect(found.get_by_test_id("answer-text")).to_contain_text(LEAVE)
    expect(found.get_by_test_id("approved")).to_have_text("Approved by a person: Checked.")
    expect(found.get_by_test_id("held")).to_have_count(0)
    found.get_by_test_id("citation").first.click()
    assert marked(held.page) == LEAVE
    held.page.clock.fast_forward(600_000)
    assert len(held.asked) == 1


def test_an_answer_that_is_not_released_gives_the_reviewers_note(held: Held) -> None:
    held.decide(approve=False, note=f"Ask HR. {EVIL}")
    held.page.clock.fast_forward(3_000)
    found = ended(held.answer, "rejected")
    expect(found.get_by_test_id("rejected")).to_contain_text(f"Ask HR. {EVIL}")
    expect(found.get_by_test_id("answer-text")).to_be_empty()
    assert held.page.evaluate("window.hurt") is None


def test_nobody_asks_after_an_answer_that_nobody_sees(held: Held) -> None:
    turn = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden,"
        " configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    )
    held.page.evaluate(turn, True)
    held.page.clock.fast_forward(600_000)
    assert held.asked == []
    held.decide(approve=True)
    held.page.evaluate(turn, False)  # coming back asks at once
    ended(held.answer, "done")
    assert len(held.asked) == 1


def test_a_new_conversation_asks_no_more_after_what_waits(held: Held) -> None:
    held.page.get_by_test_id("new-chat").click()
    held.page.clock.fast_forward(600_000)
    ended(ask(held.page, "annual leave"), "held")
    assert held.asked == []


# --- what others wrote --------------------------------------------------------------------------


def test_what_documents_and_models_write_stays_text(page: Page, model: ScriptedModel) -> None:
    link = "[a link](javascript:window.hurt=3)"
    model.next(answer(f"Evil text {EVIL} and {link} ![p](http://127.0.0.1:9/p.png) [1]."))
    found = ended(ask(page, "Evil text is indeed"), "done")
    expect(found.get_by_test_id("answer-text")).to_contain_text(EVIL)
    expect(found.locator("img, script, a[href^=javascript]")).to_have_count(0)
    found.get_by_test_id("citation").first.click()
    expect(page.get_by_test_id("panel")).to_contain_text(EVIL)
    expect(page.get_by_test_id("panel").locator("img, script")).to_have_count(0)
    assert page.evaluate("window.hurt") is None


def test_a_question_and_a_file_name_stay_text(page: Page) -> None:
    ended(ask(page, f"annual leave {EVIL}"), "done")
    page.get_by_test_id("documents-tab").click()
    name = "<img src=x onerror=hurt=1>.txt"
    file = {"name": name, "mimeType": "text/plain", "buffer": b"Some text."}
    page.get_by_test_id("upload").set_input_files([file])  # type: ignore[list-item]
    expect(page.get_by_test_id("upload-result")).to_have_attribute("data-outcome", "added")
    expect(page.get_by_test_id("document-row").filter(has_text=name)).to_have_count(1)
    assert page.evaluate("window.hurt") is None


# --- documents ----------------------------------------------------------------------------------


def test_a_document_is_added_asked_about_and_deleted(page: Page, model: ScriptedModel) -> None:
    page.get_by_test_id("documents-tab").click()
    expect(page.get_by_test_id("document-row")).to_have_count(len(DOCUMENTS))
    parking = {
        "name": "parking.md",
        "mimeType": "text/markdown",
        "buffer": b"Parking costs 40 a month.",
    }
    bad = {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": b"not a pdf"}
    page.get_by_test_id("upload").set_input_files([parking, bad])  # type: ignore[list-item]
    outcomes = page.get_by_test_id("upload-result")
    expect(outcomes).to_have_count(2)
    expect(outcomes.filter(has_text="parking.md")).to_have_attribute("data-outcome", "added")
    expect(outcomes.filter(has_text="scan.pdf")).to_have_attribute("data-outcome", "failed")
    row = page.get_by_test_id("document-row").filter(has_text="parking.md")
    expect(row).to_have_count(1)

    page.get_by_test_id("chat-tab").click()
    found = ended(ask(page, "Parking costs how much a month"), "done")
    found.get_by_test_id("citation").first.click()
    assert marked(page) == "Parking costs 40 a month."

    page.get_by_test_id("documents-tab").click()
    row.get_by_test_id("delete").click()
    page.get_by_test_id("confirm-yes").click()
    expect(row).to_have_count(0)
    expect(page.get_by_test_id("panel")).to_be_hidden()  # nothing gone is left open
    expect(page.get_by_test_id("document-row")).to_have_count(len(DOCUMENTS))


def test_deleting_can_be_thought_better_of(page: Page) -> None:
    page.get_by_test_id("documents-tab").click()
    page.get_by_test_id("delete").first.click()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("confirm")).to_be_hidden()
    expect(page.get_by_test_id("document-row")).to_have_count(len(DOCUMENTS))


def test_a_passage_whose_document_has_changed_says_so(
    page: Page, url: str, model: ScriptedModel
) -> None:
    page.get_by_test_id("documents-tab").click()

    def upload(text: str) -> None:
        file = {"name": "tea.md", "mimeType": "text/markdown", "buffer": text.encode()}
        page.get_by_test_id("upload").set_input_files([file])  # type: ignore[list-item]
        outcome = "added" if "first" in text else "changed"
        expect(page.locator(f"[data-outcome={outcome}]")).to_have_count(1)

    upload("Tea is served at four, first floor.")
    page.get_by_test_id("chat-tab").click()
    found = ended(ask(page, "Tea is served when, first floor"), "done")
    page.get_by_test_id("documents-tab").click()
    upload("Coffee only.")
    page.get_by_test_id("chat-tab").click()
    found.get_by_test_id("citation").first.click()
    expect(page.get_by_test_id("panel-note")).to_contain_text("no longer in it")


# --- other readers ------------------------------------------------------------------------------


def test_the_language_is_the_readers(visit: Open, url: str) -> None:
    page = visit(url, locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_test_id("documents-tab")).to_have_text("文档")
    page.get_by_test_id("language").click()
    expect(page.get_by_test_id("documents-tab")).to_have_text("Documents")
    page.reload()
    expect(page.get_by_test_id("documents-tab")).to_have_text("Documents")


def test_the_language_changes_in_the_middle_of_a_conversation(
    page: Page, model: ScriptedModel
) -> None:
    model.next(answer("15 days [1]."))
    found = ended(ask(page, "annual leave"), "done")
    page.get_by_test_id("language").click()
    expect(found.get_by_test_id("sources")).to_contain_text("出处")
    expect(found.get_by_test_id("answer-text")).to_have_text("15 days 1.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough(visit: Open, url: str, model: ScriptedModel, scheme: str) -> None:
    model.next(answer("| a | b | c |\n|---|---|---|\n" + "| a long cell | " * 12 + "\n\n15 [1]."))
    page = visit(url, viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    found = ended(ask(page, "annual leave"), "done")
    found.get_by_test_id("citation").first.tap()
    panel = page.get_by_test_id("panel")
    expect(panel).to_be_in_viewport(ratio=0.3)
    expect(page.get_by_test_id("panel-mark").first).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_test_id("panel-close").tap()
    expect(panel).to_be_hidden()
    expect(page.get_by_test_id("question")).to_be_in_viewport()


def test_an_empty_server_invites_to_add_documents(visit: Open, settings: Settings) -> None:
    with served(fake_engine(settings)) as url:
        page = visit(url)
        expect(page.get_by_test_id("no-documents")).to_be_visible()
        page.get_by_test_id("no-documents").get_by_role("link").click()
        expect(page.get_by_test_id("documents-empty")).to_be_visible()
        file = {"name": "tea.md", "mimeType": "text/markdown", "buffer": b"Tea is at four."}
        page.get_by_test_id("upload").set_input_files([file])  # type: ignore[list-item]
        expect(page.get_by_test_id("document-row")).to_have_count(1)
        page.get_by_test_id("chat-tab").click()
        found = ended(ask(page, "Tea is when"), "done")
        expect(found.get_by_test_id("answer-text")).to_contain_text("Tea is at four.")


# --- the sample knowledge -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample knowledge, ingested with the bundled model."""
    indexes = tmp_path_factory.mktemp("knowledge")
    engine = Engine(bundled(indexes))
    report = engine.ingest([KNOWLEDGE])
    engine.close()
    assert report.failed == []
    return indexes


def bundled(indexes: Path, **more: object) -> Settings:
    own = platformdirs.user_cache_path("rag")
    ready = is_sound(own / "models" / FOLDER)
    cache = own if ready else indexes.parent / "cache"
    return Settings(indexes=indexes, cache_dir=cache, embedding=(BUNDLED_MODEL,), **more)  # type: ignore[arg-type]


QUESTIONS = {  # one for each format
    "今年没休完的年假，最晚可以留到明年什么时候休？": "docx",
    "How many days a year may I work from abroad?": "epub",
    "普通员工去上海出差，酒店一晚最多能报多少钱？": "pdf",
    "能插手机卡的那款芦笛网关卖多少钱一台？": "xlsx",
    "温湿度传感器报 S-24 是什么毛病？": "csv",
    "新人的产品入门课考多少分算及格？": "pptx",
    "搬家装箱的时候，去七楼的箱子要贴什么颜色的标签？": "eml",
    "客户来公司要连无线网，密码去哪儿看？": "txt",
    "7 月 22 号那次故障，消息最多堵了多少条？": "md",
}


def test_every_format_shows_what_is_quoted_of_it(visit: Open, knowledge: Path) -> None:
    with served(Engine(bundled(knowledge))) as url:
        page = visit(url)
        for question, kind in QUESTIONS.items():
            reply = httpx.post(f"{url}/ask", json={"question": question}, timeout=DEADLINE)
            cited = reply.json()["citations"][0]
            found = ended(ask(page, question), "done")
            assert cited["document"].endswith(kind)
            found.get_by_test_id("citation").first.click()
            expect(page.get_by_test_id("panel-note")).to_have_count(0)
            assert bare(marked(page)) == bare(cited["quote"]), kind


def bare(text: str) -> str:
    """Without white space, and the signs between cells and of Markdown."""
    return re.sub(r"[\s|*`#]", "", text)


def handbook(connection: Connection) -> None:
    """What a good model makes of the sources of the question below."""
    sources = connection.request.sources
    home, away = (
        next(n for n, text in sources.items() if words in text)
        for words in ("Working from another country is possible", "YanGate VPN")
    )
    answer(
        f"Up to **20 working days in a calendar year**[{home}].\n\n",
        "- Human Resources and the Information Security team must consent; "
        f"request it at least 15 working days ahead[{home}].\n",
        f"- Use the YanGate VPN on any network that is not ours[{away}].",
    )(connection)


def test_the_picture_in_the_readme(
    visit: Open, knowledge: Path, model: ScriptedModel, tmp_path: Path
) -> None:
    """Written for good with RAG_SCREENSHOT=docs/page.png."""
    model.next(handbook)
    given = scripted(model.url) | {"model": "your-model"}
    with served(Engine(bundled(knowledge, **given))) as url:
        page = visit(url, color_scheme="light")
        found = ended(ask(page, "How many days a year may I work from abroad?"), "done")
        expect(found.get_by_test_id("citation")).to_have_count(3)
        found.get_by_test_id("citation").first.click()
        assert marked(page).startswith("Working from another country is possible for up to 20")
        page.evaluate("document.fonts.ready")
        target = Path(os.environ.get("RAG_SCREENSHOT", tmp_path / "page.png"))
        page.screenshot(path=target, animations="disabled", caret="hide")
    assert 10_000 < target.stat().st_size < 300_000
