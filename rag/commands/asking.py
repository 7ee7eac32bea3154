"""Commands that ask."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rag.asking import Code
from rag.bases import DEFAULT
from rag.batch import Batch, Progress
from rag.commands.common import (
    FAILED,
    FilterPath,
    FilterTag,
    FilterType,
    Images,
    JsonOption,
    KnowledgeBaseOption,
    Model,
    NoCache,
    Preset,
    TopK,
    caller,
    opened,
)
from rag.console import AnswerPrinter, ProgressBar, say
from rag.engine import Engine
from rag.errors import InputError, RagError
from rag.types import Answer, AnswerEvent, Failed, Filters, Finished, Held, Message, Token
from rag.wire import answer_json, event_json

app = typer.Typer(rich_markup_mode=None)

_FORGET = {"clear", "reset", "清除", "重置"}
_LEAVE = {"exit", "quit", "退出"}
_HELD = 4

Tools = Annotated[list[str] | None, typer.Option("--tool", help="A tool the model may call.")]


@app.command()
def ask(
    question: str,
    kb: KnowledgeBaseOption = DEFAULT,
    image: Images = None,
    model: Model = None,
    preset: Preset = None,
    tool: Tools = None,
    schema: Annotated[
        Path | None, typer.Option(help="A JSON schema the answer has to fit.")
    ] = None,
    top_k: TopK = None,
    path: FilterPath = [],  # noqa: B006 - typer copies it
    type_: FilterType = [],  # noqa: B006
    tag: FilterTag = [],  # noqa: B006
    no_cache: NoCache = False,
    as_json: JsonOption = False,
) -> None:
    """Answer one question, with citations.

    Exit code: 0; 4 if the answer waits for approval; 1 if it failed.

    \b
    rag ask "年假有多少天？"
    rag ask "What does error E-17 mean?" --path 'product/*' --json
    rag ask "Total of the three invoices?" --preset analyst --model qwen-3.0
    """
    filters = Filters(paths=tuple(path), types=tuple(type_), tags=tuple(tag))
    with opened(model=model) as engine:
        ended = asyncio.run(
            _one_turn(
                engine,
                question,
                AnswerPrinter(quiet=as_json),
                knowledge_base=kb,
                images=engine.images.from_files(image or []),
                filters=filters,
                top_k=top_k,
                model=model,
                preset=preset,
                tools=tool or None,
                schema=_schema(schema),
                cache=not no_cache,
                caller=caller(),
            )
        )
    if as_json:
        print(json.dumps(_ended_json(ended), ensure_ascii=False, indent=2))
    if not isinstance(ended, Answer):
        raise typer.Exit(_HELD if isinstance(ended, Held) else FAILED)


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"The schema {path} cannot be read: {error.strerror}.", "Check the path."
        ) from None
    except ValueError as error:
        raise InputError(f"The schema {path} is not JSON: {error}.", "Mend the file.") from None
    if not isinstance(schema, dict):
        raise InputError(
            f"The schema {path} is not a JSON object.", 'Begin with: {"type": "object", ...}'
        )
    return schema


def _ended_json(ended: Answer | Held | Failed) -> dict[str, Any]:
    if isinstance(ended, Answer):
        return answer_json(ended)
    name, data = event_json(ended)
    return {"error" if isinstance(ended, Failed) else name: data}


@app.command()
def chat(
    kb: KnowledgeBaseOption = DEFAULT,
    model: Model = None,
    preset: Preset = None,
    top_k: TopK = None,
) -> None:
    """A conversation. 'clear' or '清除' forgets it, 'exit' or '退出' ends it."""
    with opened(model=model) as engine, asyncio.Runner() as runner:
        engine.knowledge_base(kb)
        history: list[Message] = []
        say("Ask a question; 'clear' forgets the conversation, 'exit' leaves.")
        while (line := _read_line()) is not None:
            question = line.strip()
            if question.lower() in _LEAVE:
                break
            if question.lower() in _FORGET:
                history.clear()
                say("The conversation is forgotten.")
            elif question:
                options = {
                    "knowledge_base": kb,
                    "model": model,
                    "preset": preset,
                    "top_k": top_k,
                    "caller": caller(),
                }
                _chat_turn(engine, runner, question, history, options)


def _chat_turn(
    engine: Engine,
    runner: asyncio.Runner,
    question: str,
    history: list[Message],
    options: dict[str, Any],
) -> None:
    """One turn; the history grows only if it succeeded."""
    try:
        ended = runner.run(
            _one_turn(engine, question, AnswerPrinter(), history=tuple(history), **options)
        )
    except RagError as error:
        say(f"Error: {error}")
        return
    except KeyboardInterrupt:
        say("\nInterrupted; this turn is not kept.")
        return
    if isinstance(ended, Answer):
        history += [Message("user", question), Message("assistant", ended.text)]


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        return None


async def _one_turn(
    engine: Engine, question: str, printer: AnswerPrinter, **options: Any
) -> Answer | Held | Failed:
    last: AnswerEvent | None = None
    async for event in engine.ask(question, **options):
        printer.show(event)
        last = event
    if isinstance(last, Finished):
        return last.answer
    if isinstance(last, Held | Failed):
        return last
    raise RagError("The answer ended without a result.", "Please report this.")


@app.command()
def complete(
    file: Annotated[Path, typer.Argument(help="The file that is being written.")],
    at: Annotated[
        str | None, typer.Option(help="The cursor, LINE or LINE:COLUMN, from 1; default: the end.")
    ] = None,
    kb: KnowledgeBaseOption = DEFAULT,
    model: Model = None,
    preset: Preset = None,
) -> None:
    """Write what belongs at the cursor of a partial file.

    \b
    rag complete client.py --at 42:9 >> insert.txt
    """
    code = _code(file, at)

    async def run(engine: Engine) -> Failed | None:
        events = engine.complete(
            code, knowledge_base=kb, model=model, preset=preset, caller=caller()
        )
        async for event in events:
            if isinstance(event, Token):
                print(event.text, end="", flush=True)
            elif isinstance(event, Failed):
                return event
        return None

    with opened(model=model) as engine:
        failed = asyncio.run(run(engine))
    if failed is not None:
        AnswerPrinter().show(failed)
        raise typer.Exit(FAILED)
    print()


def _code(file: Path, at: str | None) -> Code:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file {file} cannot be read: {error}.", "It has to be UTF-8."
        ) from None
    if at is None:
        return Code(text, name=file.name)
    line, _, column = at.partition(":")
    if not line.isdecimal() or not (column or "1").isdecimal() or "0" in (line, column):
        raise InputError(f"{at!r} is not a place in a file.", "Write LINE or LINE:COLUMN.")
    lines = text.splitlines(keepends=True)
    start = sum(map(len, lines[: int(line) - 1]))
    here = lines[int(line) - 1] if int(line) <= len(lines) else ""
    cursor = start + min(int(column or len(here) + 1) - 1, len(here.rstrip("\r\n")))
    return Code(text[:cursor], text[cursor:], file.name)


@app.command()
def batch(
    questions: Annotated[Path, typer.Argument(help="JSON lines: id, question, and options.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON lines: id, answer, ...")],
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions at once.")] = 8,
    kb: KnowledgeBaseOption = DEFAULT,
    model: Model = None,
    preset: Preset = None,
) -> None:
    """Answer a file of questions. Started again, it goes on where it was.

    Lines that failed are asked again; those answered are not paid twice. Exit code: 0; 3 if some
    failed.

    \b
    rag batch questions.jsonl -o answers.jsonl --concurrency 16
    """
    options = {"knowledge_base": kb, "model": model, "preset": preset, "caller": caller()}
    with opened(model=model) as engine, ProgressBar() as bar:

        def show(progress: Progress) -> None:
            bar.step("questions", progress.done, progress.total)

        run = Batch(engine.ask, options, concurrency=concurrency, on_progress=show)
        report = asyncio.run(run.run(questions, output))
    say(str(report))
    raise typer.Exit(report.exit_code)
