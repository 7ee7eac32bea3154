"""A file of questions, answered once each, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.batch import Batch, Progress, Report
from rag.errors import (
    BusyError,
    ConfigError,
    InputError,
    ModelAuthError,
    ModelUnavailableError,
)
from rag.types import (
    Answer,
    AnswerEvent,
    Failed,
    Filters,
    Finished,
    Held,
    Message,
    Timings,
    Token,
    Usage,
)

AUTH = Failed("model_auth", "The key of qwen is wrong.", "Set RAG_API_KEY.", False)
DOWN = Failed("model_unavailable", "qwen is down.", "Try again.", True)


def answered(
    text: str = "Yes.", *, cost: float | None = 0.5, cached: bool = False, data: Any = None
) -> Finished:
    return Finished(
        Answer(
            text=text,
            refused=False,
            citations=(),
            model="qwen",
            usage=Usage(10, 5, cost=cost),
            timings=Timings(retrieved=0.1, first_token=0.2, total=0.3),
            cached=cached,
            data=data,
        )
    )


class Engine:
    """Answers as told: by question an ending or an error; notes what it was asked."""

    def __init__(self, endings: dict[str, AnswerEvent | BaseException] | None = None) -> None:
        self.asked: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.endings = endings or {}

    def ask(self, question: str, **options: Any) -> AsyncGenerator[AnswerEvent]:
        self.asked.append(question)
        self.options.append(options)
        ending = self.endings.get(question, answered(f"To {question}"))
        if isinstance(ending, BaseException):
            raise ending
        return self._events(ending)

    async def _events(self, ending: AnswerEvent) -> AsyncGenerator[AnswerEvent]:
        yield Token("To ")
        yield ending


class GatedEngine(Engine):
    """Ends no answer before it is let; counts those under way."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.closed: list[str] = []
        self.most = 0

    def ask(self, question: str, **options: Any) -> AsyncGenerator[AnswerEvent]:
        self.asked.append(question)
        return self._gated(question)

    async def _gated(self, question: str) -> AsyncGenerator[AnswerEvent]:
        gate = self.gates[question] = asyncio.Event()
        self.most = max(self.most, len(self.gates))
        self.begun.put_nowait(question)
        try:
            await gate.wait()
            yield answered(f"To {question}")
        finally:
            del self.gates[question]
            self.closed.append(question)


class Files:
    def __init__(self, folder: Path) -> None:
        self.questions = folder / "questions.jsonl"
        self.output = folder / "answers.jsonl"

    def ask(self, *lines: object) -> None:
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.questions.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    def run(
        self,
        engine: Engine,
        *,
        concurrency: int = 1,
        on_progress: Callable[[Progress], None] = lambda _: None,
        **options: Any,
    ) -> Report:
        batch = Batch(
            engine.ask,
            options,
            concurrency=concurrency,
            on_progress=on_progress,
            clock=lambda: 7.0,
        )
        return asyncio.run(batch.run(self.questions, self.output))

    @property
    def raw(self) -> list[bytes]:
        return self.output.read_bytes().splitlines(keepends=True)

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert all(line.endswith(b"\n") for line in self.raw)
        return [json.loads(line) for line in self.raw]

    @property
    def by_id(self) -> dict[str, dict[str, Any]]:
        lines = self.lines
        found = {line["id"]: line for line in lines}
        assert len(found) == len(lines), "one line an id"
        return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def questions(*ids: str) -> list[dict[str, str]]:
    return [{"id": name, "question": f"Q{name}"} for name in ids]


# --- questions and answers ----------------------------------------------------------------------


def test_every_question_gets_a_line_with_its_answer(files: Files) -> None:
    files.ask(*questions("a", "b"))
    report = files.run(Engine())
    assert [line["id"] for line in files.lines] == ["a", "b"]
    first = files.by_id["a"]
    assert (first["question"], first["answer"]) == ("Qa", "To Qa")
    assert first["usage"]["cost"] == 0.5
    assert first["citations"] == []
    assert (report.total, report.answered, report.exit_code) == (2, 2, 0)


def test_a_line_without_an_id_has_its_number_and_blank_lines_count_as_lines(files: Files) -> None:
    files.ask({"question": "one"}, "", "  ", {"question": "two"}, {"id": 9, "question": "three"})
    assert files.run(Engine()).total == 3
    assert {name: line["question"] for name, line in files.by_id.items()} == {
        "1": "one",
        "4": "two",
        "9": "three",
    }


def test_an_empty_file_of_questions_makes_an_empty_file_of_answers(files: Files) -> None:
    files.ask()
    assert files.run(Engine()).total == 0
    assert files.output.read_bytes() == b""


def test_a_lines_options_go_before_those_of_the_run(files: Files) -> None:
    schema = {"type": "object"}
    files.ask(
        {"question": "plain"},
        {
            "question": "rich",
            "knowledge_base": "law",
            "model": "big",
            "preset": "analyst",
            "top_k": 3,
            "filters": {"paths": ["a/*"], "types": ["pdf"], "tags": ["x"], "documents": ["d"]},
            "schema": schema,
            "history": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hello"},
            ],
            "session_id": "s1",
        },
        {"question": "nulls", "model": None, "filters": None},
    )
    engine = Engine()
    files.run(engine, knowledge_base="default", model="small", caller="me")
    plain = {"knowledge_base": "default", "model": "small", "caller": "me"}
    assert engine.options[0] == engine.options[2] == plain
    assert engine.options[1] == {
        "knowledge_base": "law",
        "model": "big",
        "preset": "analyst",
        "caller": "me",
        "top_k": 3,
        "filters": Filters(paths=("a/*",), types=("pdf",), tags=("x",), documents=("d",)),
        "schema": schema,
        "history": (Message("user", "hi"), Message("assistant", "hello")),
        "session_id": "s1",
    }


@pytest.mark.parametrize("meta", [None, 0, "x", {"深": [1, None, {"a": 1.5}]}])
def test_meta_comes_back_as_it_is(files: Files, meta: object) -> None:
    files.ask({"question": "good", "meta": meta}, {"question": "bad", "meta": meta})
    files.run(Engine({"bad": DOWN}))
    assert [line["meta"] for line in files.lines] == [meta, meta]


def test_a_line_without_meta_comes_back_without(files: Files) -> None:
    files.ask({"question": "q"})
    files.run(Engine())
    assert "meta" not in files.lines[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("年假", "is not JSON"),
        ('{"question": NaN}', "NaN"),
        ("[" * 100_000, "is not JSON"),
        ('["question"]', "not a JSON object"),
        ({"id": "x"}, 'no "question"'),
        ({"question": "  "}, 'no "question"'),
        ({"question": 3}, 'no "question"'),
        ({"id": "", "question": "q"}, '"id"'),
        ({"id": True, "question": "q"}, '"id"'),
        ({"id": ["x"], "question": "q"}, '"id"'),
        ({"question": "q", "topk": 3}, '"topk"'),
        ({"question": "q", "top_k": 0}, '"top_k"'),
        ({"question": "q", "top_k": True}, '"top_k"'),
        ({"question": "q", "top_k": "3"}, '"top_k"'),
        ({"question": "q", "model": 3}, '"model"'),
        ({"question": "q", "schema": []}, '"schema"'),
        ({"question": "q", "filters": []}, '"filters"'),
        ({"question": "q", "filters": {"tag": ["x"]}}, '"tag"'),
        ({"question": "q", "filters": {"tags": "x"}}, '"tags"'),
        ({"question": "q", "history": "hi"}, '"history"'),
        ({"question": "q", "history": ["hi"]}, '"history"'),
        ({"question": "q", "history": [{"role": "system", "content": "x"}]}, '"history"'),
        ({"question": "q", "history": [{"role": "user"}]}, '"history"'),
        ({"question": "q", "history": [{"role": "user", "content": "", "x": 1}]}, '"history"'),
    ],
)
def test_a_line_that_is_wrong_is_an_error_of_its_own_and_is_not_asked(
    files: Files, line: object, reason: str
) -> None:
    files.ask({"id": "before", "question": "A"}, line, {"id": "after", "question": "B"})
    engine = Engine()
    report = files.run(engine)
    assert engine.asked == ["A", "B"]
    (wrong,) = [line for line in files.lines if "error" in line]
    assert wrong["error"]["code"] == "input"
    assert reason in wrong["error"]["message"]
    assert "Line 2 " in wrong["error"]["message"]
    assert (report.answered, report.failed, report.exit_code) == (2, 1, 3)


def test_a_wrong_line_keeps_the_id_and_question_it_has(files: Files) -> None:
    files.ask({"id": "x", "question": "Q", "unknown": 1}, "{")
    files.run(Engine())
    assert {name: line["question"] for name, line in files.by_id.items()} == {"x": "Q", "2": None}


def test_bytes_that_are_not_utf_8_are_an_error_of_their_line(files: Files) -> None:
    files.questions.write_bytes('{"question": "年假"}\n'.encode("gb18030") + b'{"question": "B"}\n')
    engine = Engine()
    files.run(engine)
    assert engine.asked == ["B"]
    assert "not UTF-8" in files.by_id["1"]["error"]["message"]


def test_a_byte_order_mark_and_windows_line_ends_are_read(files: Files) -> None:
    files.questions.write_bytes(b'\xef\xbb\xbf{"question": "A"}\r\n\r\n{"question": "B"}')
    engine = Engine()
    assert files.run(engine).failed == 0
    assert engine.asked == ["A", "B"]


@pytest.mark.parametrize("text", ["年假有多少天？", "a\u2028b\x85c\n\td", "🧾", "\ud83d", "\x00"])
def test_any_text_comes_through_and_is_not_asked_twice(files: Files, text: str) -> None:
    files.ask({"id": text, "question": text + "?", "meta": text})
    files.run(Engine({text + "?": answered(text)}))
    line = files.by_id[text]
    assert (line["question"], line["meta"], line["answer"]) == (text + "?", text, text)
    again = Engine()
    assert files.run(again).kept == 1
    assert again.asked == []


def test_chinese_stands_readable_in_the_answers(files: Files) -> None:
    files.ask({"question": "年假"})
    files.run(Engine())
    assert "年假".encode() in files.output.read_bytes()


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        ([{"id": "x", "question": "A"}, "", {"id": "x", "question": "B"}], "1 and 3"),
        ([{"question": "A"}, {"id": "1", "question": "B"}], "1 and 2"),
        ([{"id": 2, "question": "A"}, "{"], "1 and 2"),
    ],
)
def test_two_lines_of_one_id_are_named_before_anything_is_asked_or_written(
    files: Files, lines: Sequence[object], numbers: str
) -> None:
    files.ask(*lines)
    engine = Engine()
    with pytest.raises(InputError, match=numbers):
        files.run(engine)
    assert engine.asked == []
    assert not files.output.exists()


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (DOWN, "model_unavailable"),
        (AUTH, "model_auth"),
        (ModelUnavailableError("Down.", "Wait."), "model_unavailable"),
        (ZeroDivisionError(), "error"),
        (asyncio.CancelledError(), "error"),
        (Token("and nothing more"), "error"),
    ],
)
def test_a_question_that_fails_is_a_line_and_stops_nothing(
    files: Files, ending: AnswerEvent | BaseException, code: str
) -> None:
    files.ask(*questions("a", "b", "c"))
    report = files.run(Engine({"Qb": ending}))
    error = files.by_id["b"]["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert (report.answered, report.failed, report.exit_code) == (2, 1, 3)


def test_an_answer_that_waits_for_approval_is_told_and_not_asked_again(files: Files) -> None:
    files.ask(*questions("a"))
    report = files.run(Engine({"Qa": Held("r1", "preset medical")}))
    assert files.lines[0]["held"] == {"review_id": "r1", "reason": "preset medical"}
    assert (report.held, report.exit_code) == (1, 0)
    again = Engine()
    assert files.run(again).kept == 1
    assert again.asked == []


@pytest.mark.parametrize("concurrency", [1, 3, 8])
@pytest.mark.parametrize("ending", [AUTH, ModelAuthError(AUTH.message, AUTH.hint)])
def test_five_first_questions_that_fail_for_one_reason_beyond_them_end_the_run(
    files: Files, ending: AnswerEvent | BaseException, concurrency: int
) -> None:
    files.ask("{", *questions(*map(str, range(100, 200))))
    engine = Engine({f"Q{n}": ending for n in range(100, 200)})
    with pytest.raises(ModelAuthError) as raised:
        files.run(engine, concurrency=concurrency)
    assert (raised.value.message, raised.value.hint) == (AUTH.message, AUTH.hint)
    assert len(engine.asked) < 5 + concurrency
    again = Engine()
    assert files.run(again).answered == 100
    assert len(again.asked) == 100
    assert len(files.by_id) == 101


@pytest.mark.parametrize(
    "endings",
    [
        [AUTH, AUTH, answered()],
        [AUTH, AUTH, DOWN],
        [DOWN],
        [Failed("schema", "It does not fit.", "", False)],
        [AUTH, Failed("model_auth", "Another key is wrong.", "", False)],
    ],
)
def test_failures_that_differ_or_may_pass_or_come_later_do_not_end_the_run(
    files: Files, endings: list[AnswerEvent]
) -> None:
    files.ask(*questions(*map(str, range(40))))
    told = {f"Q{n}": endings[n % len(endings)] for n in range(10)}
    engine = Engine(told | {f"Q{n}": AUTH for n in range(10, 40)})
    report = files.run(engine)
    assert len(engine.asked) == report.done == 40


def test_every_error_of_the_tree_comes_back_as_itself(files: Files) -> None:
    files.ask(*questions(*"abcdefg"))
    wrong = Failed(ConfigError.code, "RAG_TOP_K is wrong.", "Mend it.", False)
    with pytest.raises(ConfigError, match="RAG_TOP_K"):
        files.run(Engine({f"Q{name}": wrong for name in "abcdefg"}))


# --- going on -----------------------------------------------------------------------------------


def test_a_finished_run_started_again_asks_nothing_and_changes_nothing(files: Files) -> None:
    files.ask(*questions("a", "b"))
    files.run(Engine())
    before = files.output.read_bytes()
    again = Engine()
    report = files.run(again)
    assert again.asked == []
    assert (report.kept, report.answered, report.done, report.usage) == (2, 0, 2, Usage())
    assert files.output.read_bytes() == before


def test_what_failed_is_asked_again_and_its_error_goes(files: Files) -> None:
    files.ask(*questions("a", "b", "c"), "{")
    files.run(Engine({"Qb": DOWN}))
    again = Engine()
    report = files.run(again)
    assert again.asked == ["Qb"]
    assert (report.kept, report.answered, report.failed) == (2, 1, 1)
    assert files.by_id["b"]["answer"] == "To Qb"
    assert set(files.by_id) == {"a", "b", "c", "4"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Five questions, one of which failed, one held."""
    files = Files(tmp_path_factory.mktemp("whole"))
    files.ask(*questions("一", "b", "c", "d", "e"))
    files.run(Engine({"Qb": DOWN, "Qc": Held("r", "tag")}))
    return files


@pytest.mark.parametrize("lines", range(6))
@pytest.mark.parametrize("share", [0.0, 1e-9, 0.05, 0.5, 1.0])
def test_after_a_crash_only_what_is_missing_is_asked(
    files: Files, whole: Files, lines: int, share: float
) -> None:
    """`share` of the next line was written, 1.0: all but its end of line."""
    nexts = whole.raw[lines : lines + 1] or [b""]
    cut = min(len(nexts[0]) - 1, 1 + int(share * len(nexts[0]))) if share and nexts[0] else 0
    _resumes(files, whole, b"".join(whole.raw[:lines]) + nexts[0][:cut])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1))
def test_wherever_it_was_killed_it_goes_on(files: Files, whole: Files, share: float) -> None:
    written = whole.output.read_bytes()
    _resumes(files, whole, written[: round(share * len(written))])


def _resumes(files: Files, whole: Files, written: bytes) -> None:
    files.questions.write_bytes(whole.questions.read_bytes())
    files.output.write_bytes(written)
    there = [line for line in whole.raw if line.rstrip(b"\n") in written]
    have = {line["id"] for line in map(json.loads, there) if "error" not in line}
    engine = Engine()
    report = files.run(engine)
    assert engine.asked == [f"Q{name}" for name in ("一", "b", "c", "d", "e") if name not in have]
    assert report.kept == len(have)
    assert set(files.by_id) == {"一", "b", "c", "d", "e"}
    assert not any("error" in line for line in files.lines)


def test_a_changed_question_is_asked_again_and_only_it(files: Files) -> None:
    files.ask(*questions("a", "b"))
    files.run(Engine())
    files.ask({"id": "a", "question": "New"}, *questions("b"))
    again = Engine()
    files.run(again)
    assert again.asked == ["New"]
    assert files.by_id["a"]["answer"] == "To New"


@pytest.mark.parametrize(
    "changed",
    [
        {"knowledge_base": "law"},
        {"model": "big"},
        {"preset": "analyst"},
        {"top_k": 3},
        {"filters": {"tags": ["x"]}},
        {"schema": {"type": "object"}},
        {"history": [{"role": "user", "content": "hi"}]},
    ],
)
def test_a_question_asked_another_way_is_asked_again(
    files: Files, changed: dict[str, object]
) -> None:
    files.ask({"id": "a", "question": "Q"})
    files.run(Engine())
    files.ask({"id": "a", "question": "Q", **changed})
    again = Engine()
    files.run(again)
    assert again.asked == ["Q"]
    once_more = Engine()
    files.run(once_more)
    assert once_more.asked == []


def test_another_default_of_the_run_asks_again_what_it_changes(files: Files) -> None:
    files.ask({"question": "A"}, {"question": "B", "model": "own"})
    files.run(Engine(), model=None)
    again = Engine()
    files.run(again, model="big")
    assert again.asked == ["A"]


def test_who_asks_and_what_is_echoed_do_not_make_a_question_another(files: Files) -> None:
    files.ask({"question": "A"})
    files.run(Engine(), caller="me", model=None)
    files.ask({"id": 1, "question": "A", "session_id": "s", "meta": 1, "model": None})
    again = Engine()
    files.run(again, caller="you")
    assert again.asked == []


def test_questions_moved_about_are_not_asked_again(files: Files) -> None:
    files.ask(*questions("a", "b", "c"))
    files.run(Engine())
    files.ask(*questions("c", "d", "a", "b"))
    again = Engine()
    files.run(again)
    assert again.asked == ["Qd"]


def test_answers_of_questions_no_longer_asked_stay(files: Files) -> None:
    files.ask(*questions("a", "b"))
    files.run(Engine())
    files.ask(*questions("b", "c"))
    report = files.run(Engine())
    assert set(files.by_id) == {"a", "b", "c"}
    assert (report.total, report.kept, report.answered) == (2, 1, 1)


def test_two_answers_of_one_id_become_one(files: Files) -> None:
    files.ask(*questions("a", "b"))
    files.run(Engine())
    files.output.write_bytes(b"".join([*files.raw, *files.raw]))
    again = Engine()
    files.run(again)
    assert again.asked == []
    assert set(files.by_id) == {"a", "b"}


def test_an_answer_with_numbers_that_json_does_not_have_is_read_back(files: Files) -> None:
    files.ask(*questions("a"))
    files.run(Engine({"Qa": answered(data=float("nan"))}))
    again = Engine()
    files.run(again)
    assert again.asked == []


def test_the_file_of_answers_keeps_its_rights_and_a_link_stays_a_link(files: Files) -> None:
    real = files.output.with_name("real.jsonl")
    files.output.symlink_to(real)
    files.ask(*questions("a", "b"))
    files.run(Engine({"Qa": DOWN}))
    real.chmod(0o600)
    files.run(Engine())
    assert files.output.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert set(files.by_id) == {"a", "b"}
    assert not list(real.parent.glob("*.new"))


# --- files that are not to be touched -----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a letter\n",
        "a letter",
        '{"id": "a", "question": "Qa"}\n',
        '{"id": "a", "ques\n{"id": "b"}\n',
        "\n",
        '{"name": "x',
    ],
)
def test_a_file_that_holds_no_answers_is_not_overwritten(files: Files, text: str) -> None:
    files.ask(*questions("a"))
    files.output.write_text(text, encoding="utf-8")
    engine = Engine()
    with pytest.raises(InputError, match=r"Line 1 .* is no answer"):
        files.run(engine)
    assert engine.asked == []
    assert files.output.read_text(encoding="utf-8") == text


def test_the_questions_are_not_overwritten(files: Files) -> None:
    files.ask(*questions("a"))
    files.output.symlink_to(files.questions)
    with pytest.raises(InputError, match="overwrite"):
        files.run(Engine())


def test_no_file_of_questions_is_an_error(files: Files) -> None:
    with pytest.raises(InputError, match="no file of questions"):
        files.run(Engine())
    assert not files.output.exists()


def test_an_output_that_is_a_folder_is_an_error(files: Files) -> None:
    files.ask(*questions("a"))
    files.output.mkdir()
    with pytest.raises(InputError, match="not a file"):
        files.run(Engine())


def test_an_output_that_cannot_be_made_is_an_error(files: Files) -> None:
    files.ask(*questions("a"))
    files.output = files.questions / "answers.jsonl"
    with pytest.raises(InputError, match="cannot go on"):
        files.run(Engine())


def test_the_folder_of_the_answers_is_made(files: Files) -> None:
    files.ask(*questions("a"))
    files.output = files.output.parent / "new" / "answers.jsonl"
    assert files.run(Engine()).answered == 1


def test_a_disk_that_takes_no_more_ends_the_run_and_the_torn_line_is_asked_again(
    files: Files,
) -> None:
    files.ask(*questions("a", "b", "c"))
    engine = Engine({"Qb": answered("long " * 50_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot go on"):
            files.run(engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert engine.asked == ["Qa", "Qb"]
    assert files.output.stat().st_size == 100_000
    again = Engine()
    files.run(again)
    assert again.asked == ["Qb", "Qc"]
    assert set(files.by_id) == {"a", "b", "c"}


def test_two_runs_with_one_output_do_not_mix(files: Files) -> None:
    files.ask(*questions("a"))
    engine = Engine()
    with FileLock(f"{files.output}.lock"), pytest.raises(BusyError, match="Another batch"):
        files.run(engine)
    assert engine.asked == []
    assert files.run(engine).answered == 1


def test_a_second_run_is_turned_away_while_the_first_is_under_way(files: Files) -> None:
    files.ask(*questions("a"))
    engine = GatedEngine()

    async def scene() -> None:
        batch = Batch(engine.ask, {})
        first = asyncio.create_task(batch.run(files.questions, files.output))
        asked = await engine.begun.get()
        with pytest.raises(BusyError):
            await batch.run(files.questions, files.output)
        engine.gates[asked].set()
        assert (await first).answered == 1

    asyncio.run(scene())
    assert engine.asked == ["Qa"]


# --- many at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 7, 100])
def test_no_more_are_asked_at_once_than_allowed_and_no_fewer(
    files: Files, concurrency: int
) -> None:
    count = 20
    files.ask(*questions(*map(str, range(count))))
    engine = GatedEngine()

    async def scene() -> Report:
        batch = Batch(engine.ask, {}, concurrency=concurrency)
        run = asyncio.create_task(batch.run(files.questions, files.output))
        width = min(concurrency, count)
        waiting = [await engine.begun.get() for _ in range(width)]
        for _ in range(count - width):
            engine.gates[waiting.pop(0)].set()
            waiting.append(await engine.begun.get())
        assert len(asyncio.all_tasks()) <= width + 2
        for question in waiting:
            engine.gates[question].set()
        return await run

    report = asyncio.run(scene())
    assert engine.most == min(concurrency, count)
    assert report.answered == len(files.by_id) == count


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(6)))
def test_answers_stand_as_they_came_each_with_its_own_question(
    files: Files, order: list[int]
) -> None:
    files.ask(*questions(*map(str, range(6))))
    files.output.unlink(missing_ok=True)
    engine = GatedEngine()

    async def scene() -> None:
        written: list[Progress] = []
        news = asyncio.Event()

        def told(progress: Progress) -> None:
            written.append(progress)
            news.set()

        batch = Batch(engine.ask, {}, concurrency=6, on_progress=told)
        run = asyncio.create_task(batch.run(files.questions, files.output))
        for _ in range(6):
            await engine.begun.get()
        for done, n in enumerate(order, 1):
            engine.gates[f"Q{n}"].set()
            while written[-1].done < done:
                news.clear()
                await news.wait()
            assert len(files.lines) == done, "on the disk as soon as it is done"
        await run

    asyncio.run(scene())
    assert [line["id"] for line in files.lines] == [str(n) for n in order]
    assert all(line["answer"] == f"To Q{line['id']}" for line in files.lines)


def test_cancelled_it_keeps_what_is_done_and_closes_what_is_under_way(files: Files) -> None:
    files.ask(*questions("a", "b", "c", "d"))
    engine = GatedEngine()

    async def scene() -> None:
        batch = Batch(engine.ask, {}, concurrency=2)
        run = asyncio.create_task(batch.run(files.questions, files.output))
        first = await engine.begun.get()
        await engine.begun.get()
        engine.gates[first].set()
        await engine.begun.get()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(scene())
    assert engine.gates == {}
    assert sorted(engine.closed) == ["Qa", "Qb", "Qc"]
    assert set(files.by_id) == {"a"}
    again = Engine()
    files.run(again)
    assert again.asked == ["Qb", "Qc", "Qd"]


def test_answers_that_wait_for_nothing_let_a_cancel_through(files: Files) -> None:
    files.ask(*questions(*map(str, range(100))))
    engine = Engine()

    async def scene() -> None:
        def cancel(progress: Progress) -> None:
            if progress.done == 1:
                run.cancel()

        batch = Batch(engine.ask, {}, concurrency=1, on_progress=cancel)
        run = asyncio.create_task(batch.run(files.questions, files.output))
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(scene())
    assert len(engine.asked) < 5


def test_fewer_than_one_at_once_is_an_error() -> None:
    with pytest.raises(InputError):
        Batch(Engine().ask, {}, concurrency=0)


# --- what is told -------------------------------------------------------------------------------


def test_progress_begins_with_what_was_done_and_counts_every_question(files: Files) -> None:
    files.ask(*questions("a"))
    files.run(Engine())
    files.ask(*questions("a", "b", "c"), "{")
    seen: list[Progress] = []
    files.run(Engine({"Qb": DOWN}), on_progress=seen.append)
    assert [(p.done, p.failed, p.total) for p in seen] == [
        (1, 0, 4),
        (2, 1, 4),
        (3, 1, 4),
        (4, 2, 4),
    ]


def test_the_report_adds_up_what_was_paid(files: Files) -> None:
    files.ask(*questions("a", "b", "c", "d"))
    endings = {"Qb": answered(cached=True), "Qc": answered(cost=0.25), "Qd": DOWN}
    report = files.run(Engine(endings))
    assert (report.answered, report.cached, report.failed, report.unpriced) == (3, 1, 1, 0)
    assert report.usage == Usage(20, 10, cost=0.75)
    assert str(report) == (
        "4 questions: 3 answered, 1 of them from the cache, 1 failed; 30 tokens, $0.7500, 0.0 s"
    )


def test_a_sum_without_some_prices_says_so(files: Files) -> None:
    files.ask(*questions("a", "b"))
    report = files.run(Engine({"Qb": answered(cost=None)}))
    assert report.unpriced == 1
    assert "at least $0.5000" in str(report)


def test_without_any_price_no_sum_is_told(files: Files) -> None:
    files.ask(*questions("a"))
    assert "$" not in str(files.run(Engine({"Qa": answered(cost=None)})))


def test_seconds_are_those_of_the_clock(files: Files) -> None:
    files.ask(*questions("a"))
    times = iter([10.0, 10.0, 12.5])
    batch = Batch(Engine().ask, {}, clock=lambda: next(times))
    assert asyncio.run(batch.run(files.questions, files.output)).seconds == 2.5
