"""The run: as many questions at once as may be, each answer written as soon as it is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

from rag.batch.answers import locked, record_of
from rag.batch.failures import FirstFailures, failed_with
from rag.batch.questions import Line, compare, lines_of, opened
from rag.batch.report import Ending, Progress, Report
from rag.errors import InputError, RagError
from rag.types import AnswerEvent, Failed, Finished, Held

_log = logging.getLogger("rag")

Ask = Callable[..., AsyncGenerator[AnswerEvent]]


class Batch:
    """Asks many questions, at most `concurrency` at once.

    `ask` is like `Engine.ask`: it is called with a question and options and may raise RagError.
    `options` hold for every line that does not say otherwise.
    """

    def __init__(
        self,
        ask: Ask,
        options: Mapping[str, Any],
        *,
        concurrency: int = 8,
        on_progress: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if concurrency < 1:
            raise InputError(f"{concurrency} questions at once is too few.", "Ask 1 or more.")
        self._ask = ask
        self._options = options
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._clock = clock

    async def run(self, questions: Path, output: Path) -> Report:
        """Asks what `output` does not answer yet; each answer is written as soon as it is there.

        When it is done, `output` has one line for each id. A line whose question or options have
        changed since is asked again, and so is one that failed; lines of other ids stay. A question
        that fails is a line of `output` and stops nothing, unless the first five all fail with one
        error that is not about a single question: then that is raised.

        Cancelled or killed, it loses no more than the questions that were under way. Raises
        InputError for files that cannot be read or written and for an id that is there twice,
        before anything is asked; BusyError if another run writes to `output`.
        """
        try:
            with opened(questions, output) as file, locked(output) as answers:
                done = answers.done()
                report = compare(file, self._options, done)
                with answers.writing(done) as write:
                    return await self._run(file, done, report, write)
        except OSError as error:
            where = error.filename or output
            raise InputError(
                f"The batch cannot go on: {where}: {error.strerror or error}.",
                "Mend that and start it again; what is answered is not asked again.",
            ) from error

    async def _run(
        self,
        file: BinaryIO,
        done: Mapping[str, str],
        report: Report,
        write: Callable[[dict[str, Any]], None],
    ) -> Report:
        started = self._clock()
        first = FirstFailures()
        lines = (line for line in lines_of(file, self._options) if line.id not in done)

        def tell() -> None:
            report.seconds = self._clock() - started
            self._on_progress(
                Progress(
                    done=report.done,
                    failed=report.failed,
                    total=report.total,
                    seconds=report.seconds,
                )
            )

        async def work() -> None:
            for line in lines:
                ending = line.error or await self._ending(line)
                write(record_of(line, ending))
                report.add(ending)
                tell()
                if line.error is None:
                    first.saw(ending)
                await asyncio.sleep(0)  # lets others run, and Ctrl-C in, when nothing waits

        tell()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, report.total - report.kept)):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return report

    async def _ending(self, line: Line) -> Ending:
        """How the answer ended; every error but being cancelled is a Failed."""
        last: AnswerEvent | None = None
        try:
            async with aclosing(self._ask(line.question, **line.options)) as events:
                async for event in events:
                    last = event
        except RagError as error:
            return failed_with(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return failed_with(RagError("The answer was broken off.", "Start the batch again."))
        except Exception as error:  # noqa: BLE001 - one question's bug must not cost the others
            _log.error("Question %s of a batch met a bug.", line.id, exc_info=error)
            name = type(error).__name__
            return failed_with(RagError(f"This should not have happened ({name}).", "See the log."))
        if isinstance(last, Finished | Held | Failed):
            return last
        return failed_with(RagError("The answer did not end.", "Start the batch again."))
