"""Answers shared by several processes through a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag.cache import AnswerCache, InRedis, RedisFlights
from rag.errors import StoreError
from rag.records import CacheAsked
from rag.redis_link import RedisLink
from rag.types import AnswerEvent, Failed, Retrieved, Token
from tests.services import free_port
from tests.test_cache import (
    EVENTS,
    FAILED,
    HIT,
    WHOLE,
    Asked,
    all_of,
    answer_of,
    finished,
    run,
    text_of,
)
from tests.test_cache_flight import TWO, Follower

pytestmark = [pytest.mark.slow, pytest.mark.redis]

ROOT = Path(__file__).parent.parent


@pytest.fixture
def prefix() -> str:
    """Keys of one test."""
    return uuid.uuid4().hex


class Link(RedisLink):
    """One that can be cut. Patient, for these tests are not about a busy machine."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=20.0)
        self.cut = False

    async def run(self, command: Any, *, waits: bool = False) -> Any:
        if self.cut:
            raise StoreError("Redis is gone.")
        return await super().run(command, waits=waits)


class Server:
    """What one server process has: its own link, answers and flights."""

    def __init__(self, url: str, prefix: str, **flights: Any) -> None:
        self.link = Link(url)
        self.kept = InRedis(self.link, prefix)
        self.records: list[Any] = []
        self.answers = AnswerCache(
            self.kept,
            ttl=60.0,
            refusal_ttl=5.0,
            flights=RedisFlights(self.link, prefix, **({"wait": 0.05} | flights)),
            listener=self.records.append,
        )

    def follow(self, asked: Asked) -> Follower:
        return Follower(self.answers.answer("k", asked))

    async def keys(self, prefix: str) -> list[bytes]:
        return [bytes(key) for key in await self.link.run(lambda r: r.keys(f"{prefix}:*"))]

    async def drop_lease(self, prefix: str) -> None:
        """As if the leader had died, and its lease run out."""
        (lease,) = await self.link.run(lambda redis: redis.keys(f"{prefix}:flight:*"))
        await self.link.run(lambda redis: redis.delete(lease))


# --- kept -------------------------------------------------------------------------------------


def test_an_answer_kept_by_one_process_is_replayed_by_another(redis_url: str, prefix: str) -> None:
    one, other = Server(redis_url, prefix), Server(redis_url, prefix)

    async def first() -> None:
        assert await all_of(one.answers.answer("k", Asked(*WHOLE))) == list(WHOLE)

    async def second() -> None:
        replayed = await all_of(other.answers.answer("k", Asked(FAILED)))
        assert text_of(replayed) == "It is text [1]."
        assert answer_of(replayed).cached
        assert answer_of(replayed).citations == answer_of(WHOLE).citations
        assert other.records == [CacheAsked(result="hit", saved=0.25)]

    run(first())
    run(second())


def test_every_event_comes_back_from_redis_as_it_was(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        kept = InRedis(RedisLink(redis_url), prefix)
        events = (*EVENTS, finished("end"))
        await kept.put("k", events, 60)
        assert await kept.get("k") == events

    run(scene())


def test_redis_forgets_an_answer_when_its_time_is_over(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        await server.kept.put("k", WHOLE, 1.5)
        (key,) = await server.keys(prefix)
        left = await server.link.run(lambda redis: redis.pttl(key))
        assert 500 < left <= 1500
        await server.kept.put("k", WHOLE, 0.0)  # gone at once, not kept for ever
        assert await server.link.run(lambda redis: redis.pttl(key)) <= 1

    run(scene())


@pytest.mark.parametrize("value", [b"", b"junk", b"\xff\xfe", b'Token {"text":"no end"}', None])
def test_a_foreign_value_is_a_miss_and_is_logged(
    redis_url: str, prefix: str, value: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        await server.kept.put("k", WHOLE, 60)
        (key,) = await server.keys(prefix)
        if value is None:
            await server.link.run(lambda redis: redis.delete(key))
            await server.link.run(lambda redis: redis.sadd(key, "another type"))
        else:
            await server.link.run(lambda redis: redis.set(key, value))
        with caplog.at_level(logging.WARNING, "rag"):
            assert await server.kept.get("k") is None
        assert caplog.records
        assert text_of(await all_of(server.answers.answer("k", Asked(*TWO)))) == "one two"
        assert await server.kept.get("k") == TWO

    run(scene())


def test_clearing_removes_all_answers_and_nothing_else(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        for number in range(1200):
            await server.kept.put(str(number), (finished(""),), 60)
        await server.link.run(lambda redis: redis.set(f"{prefix}:other", "stays"))
        await server.answers.clear()
        assert await server.keys(prefix) == [f"{prefix}:other".encode()]

    run(scene())


def test_text_that_no_one_can_write_is_answered_but_not_kept(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        half = Asked(Token("\ud800"), finished("\ud800"))
        assert text_of(await all_of(server.answers.answer("k", half))) == "\ud800"
        assert await server.kept.get("k") is None

    run(scene())


# --- without Redis ----------------------------------------------------------------------------


def test_without_redis_answers_go_on_with_one_warning(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        server = Server(f"redis://:secret@127.0.0.1:{free_port()}/0", prefix)
        asked = Asked(*TWO, gated=True)
        followers = [server.follow(asked) for _ in range(10)]
        asked.open()
        await asyncio.gather(*(follower.task for follower in followers))
        assert asked.calls == 1  # in one process they still share
        await all_of(server.answers.answer("k", asked))
        assert asked.calls == 2
        await server.answers.clear()

    with caplog.at_level(logging.INFO, "rag"):
        run(scene())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "secret" not in record.getMessage()


# --- single flight ----------------------------------------------------------------------------


def test_two_processes_make_one_call_and_both_stream(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(Retrieved((HIT,), 0.5), *TWO, gated=True)
        first = [one.follow(asked) for _ in range(5)]
        asked.gates[0].set()
        await first[0].has(1)
        never = Asked(FAILED)
        others = [other.follow(never) for _ in range(5)]
        asked.gates[1].set()
        for follower in first + others:
            await follower.has(2)
            assert text_of(follower.seen) == "one "
        asked.open()
        await asyncio.gather(*(follower.task for follower in first + others))
        assert (asked.calls, never.calls) == (1, 0)
        assert {text_of(follower.seen) for follower in first + others} == {"one two"}
        assert sorted(answer_of(f.seen).cached for f in first) == [False] + [True] * 4
        assert all(answer_of(f.seen).cached for f in others)
        assert sorted(record.result for record in one.records) == ["joined"] * 4 + ["miss"]
        assert other.records == [CacheAsked(result="joined", saved=0.25)] * 5

    run(scene())


def test_a_flight_that_is_over_leaves_nothing_that_does_not_expire(
    redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(*TWO, gated=True)
        first = one.follow(asked)
        asked.gates[0].set()
        await first.has(1)
        second = other.follow(asked)
        await second.has(1)
        asked.open()
        await asyncio.gather(first.task, second.task)
        keys = await one.keys(prefix)
        assert not [key for key in keys if b":flight:" in key]
        assert {key.split(b":")[1] for key in keys} == {b"answer", b"stream", b"watched"}
        for key in keys:
            left = await one.link.run(lambda redis, key=key: redis.pttl(key))
            assert 0 < left <= 600_000

    run(scene())


@pytest.mark.parametrize(
    "failure", [FAILED, StoreError("No index.", "Ingest.")], ids=["told", "raised"]
)
def test_a_failure_reaches_the_other_process(
    redis_url: str, prefix: str, failure: AnswerEvent | Exception
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(Token("half"), failure, gated=True)
        first = one.follow(asked)
        asked.gates[0].set()
        await first.has(1)
        second = other.follow(Asked(*TWO))
        await second.has(1)
        asked.open()
        await asyncio.wait([first.task, second.task])
        expected = FAILED if failure is FAILED else Failed("store", "No index.", "Ingest.", False)
        assert second.seen == [Token("half"), expected]
        assert first.task.exception() is (None if failure is FAILED else failure)
        assert text_of(await all_of(other.answers.answer("k", Asked(*TWO)))) == "one two"

    run(scene())


def test_without_watchers_the_leaders_call_is_cancelled_and_the_lease_free(
    redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        asked = Asked(*TWO, gated=True)
        follower = server.follow(asked)
        asked.gates[0].set()
        await follower.has(1)
        await follower.leaves()
        assert asked.closed == 1
        assert not [key for key in await server.keys(prefix) if b":flight:" in key]

    run(scene())


def test_a_leader_that_goes_away_does_not_disturb_the_other_process(
    redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(*TWO, gated=True)
        first = one.follow(asked)
        asked.gates[0].set()
        await first.has(1)
        second = other.follow(Asked(FAILED))
        await second.has(1)
        await first.leaves()
        assert asked.closed == 0
        asked.open()
        await second.task
        assert text_of(second.seen) == "one two"
        assert asked.closed == 1
        assert text_of(await all_of(one.answers.answer("k", Asked(FAILED)))) == "one two"

    run(scene())


def test_a_follower_that_goes_away_does_not_disturb_the_leader(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(*TWO, gated=True)
        first = one.follow(asked)
        asked.gates[0].set()
        await first.has(1)
        second = other.follow(asked)
        await second.has(1)
        await second.leaves()
        assert asked.closed == 0
        (watched,) = [key for key in await one.keys(prefix) if b":watched:" in key]
        assert await one.link.run(lambda redis: redis.get(watched)) == b"0"
        asked.open()
        await first.task
        assert text_of(first.seen) == "one two"

    run(scene())


def test_a_follower_that_has_said_nothing_takes_over_from_a_dead_leader(
    redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        dead = Asked(Retrieved((HIT,), 0.5), *TWO, gated=True)
        first = one.follow(dead)
        dead.gates[0].set()
        await first.has(1)
        asked = Asked(*TWO)
        second = other.follow(asked)
        await second.has(1)
        await one.drop_lease(prefix)
        await second.task
        assert text_of(second.seen) == "one two"
        assert asked.calls == 1
        assert not answer_of(second.seen).cached
        assert other.records == [CacheAsked(result="miss")]
        await first.leaves()

    run(scene())


def test_a_follower_that_has_begun_to_speak_fails_with_a_dead_leader(
    redis_url: str, prefix: str
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        dead = Asked(*TWO, gated=True)
        first = one.follow(dead)
        dead.gates[0].set()
        await first.has(1)
        asked = Asked(*TWO)
        second = other.follow(asked)
        await second.has(1)
        await one.drop_lease(prefix)
        await second.task
        last = second.seen[-1]
        assert isinstance(last, Failed)
        assert (last.code, last.retryable, asked.calls) == ("model_stream", True, 0)
        await first.leaves()

    run(scene())


@pytest.mark.parametrize("spoken", [False, True])
def test_when_redis_goes_the_leader_finishes_and_a_follower_asks_itself_or_fails(
    redis_url: str, prefix: str, spoken: bool
) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(Retrieved((HIT,), 0.5), *TWO, gated=True)
        first = one.follow(asked)
        for gate in asked.gates[: 1 + spoken]:
            gate.set()
        itself = Asked(*TWO)
        await first.has(1)
        second = other.follow(itself)
        await second.has(1 + spoken)
        one.link.cut = other.link.cut = True
        await second.task
        asked.open()
        await first.task
        assert text_of(first.seen) == "one two"
        assert itself.calls == (not spoken)
        if spoken:
            assert isinstance(second.seen[-1], Failed)
        else:
            assert text_of(second.seen) == "one two"

    run(scene())


def test_a_stream_with_a_hole_is_not_taken_for_the_answer(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        one, other = Server(redis_url, prefix), Server(redis_url, prefix)
        asked = Asked(*TWO, gated=True)
        first = one.follow(asked)
        asked.gates[0].set()
        await first.has(1)
        stream: list[bytes] = []
        while not stream:
            stream = [key for key in await one.keys(prefix) if b":stream:" in key]
        await one.link.run(lambda redis: redis.delete(stream[0]))  # Redis was short of memory
        asked.gates[1].set()
        alone = Asked(*TWO)
        assert text_of(await all_of(other.answers.answer("k", alone))) == "one two"
        assert alone.calls == 1
        asked.open()
        await first.task

    run(scene())


def test_a_lease_taken_while_being_cancelled_is_given_back(redis_url: str, prefix: str) -> None:
    class Cancelling(Link):
        async def run(self, command: Any, *, waits: bool = False) -> Any:
            result = await super().run(command, waits=waits)
            if command.__name__ == "taken":
                assert await super().run(lambda redis: redis.keys(f"{prefix}:flight:*"))
                raise asyncio.CancelledError
            return result

    async def scene() -> None:
        link, asked = Cancelling(redis_url), Asked(*TWO)
        (last,) = await all_of(RedisFlights(link, prefix).follow("k", asked))
        assert isinstance(last, Failed)
        assert not await link.run(lambda redis: redis.keys(f"{prefix}:*"))
        assert not asked.calls

    run(scene())


def test_a_leader_renews_its_lease(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        due, slept = asyncio.Event(), asyncio.Queue[float]()

        async def sleep(seconds: float) -> None:
            slept.put_nowait(seconds)
            await due.wait()
            due.clear()

        server = Server(redis_url, prefix, lease=9.0, sleep=sleep)
        asked = Asked(*TWO, gated=True)
        follower = server.follow(asked)
        asked.gates[0].set()
        await follower.has(1)
        assert await slept.get() == 3.0
        (lease,) = [key for key in await server.keys(prefix) if b":flight:" in key]
        await server.link.run(lambda redis: redis.pexpire(lease, 1000))
        due.set()
        await slept.get()
        assert await server.link.run(lambda redis: redis.pttl(lease)) > 1000
        asked.open()
        await follower.task

    run(scene())


def test_an_answer_kept_between_looking_and_asking_is_not_asked_again(
    redis_url: str, prefix: str
) -> None:
    class Late(InRedis):
        """Another process keeps the answer just after we looked."""

        async def get(self, key: str) -> tuple[AnswerEvent, ...] | None:
            found = await super().get(key)
            await self.put(key, TWO, 60)
            return found

    async def scene() -> None:
        link = RedisLink(redis_url)
        records: list[Any] = []
        answers = AnswerCache(
            Late(link, prefix),
            ttl=60,
            refusal_ttl=60,
            flights=RedisFlights(link, prefix),
            listener=records.append,
        )
        asked = Asked(FAILED)
        replayed = await all_of(answers.answer("k", asked))
        assert (text_of(replayed), asked.calls) == ("one two", 0)
        assert answer_of(replayed).cached
        assert records == [CacheAsked(result="hit", saved=0.25)]

    run(scene())


def test_many_questions_at_once_do_not_wear_redis_out(redis_url: str, prefix: str) -> None:
    async def scene() -> None:
        server = Server(redis_url, prefix)
        asked = Asked(*TWO)
        await asyncio.gather(*(all_of(server.answers.answer(str(n), asked)) for n in range(300)))
        assert asked.calls == 300
        await asyncio.gather(*(all_of(server.answers.answer(str(n), asked)) for n in range(300)))
        assert asked.calls == 300

    run(scene())


# --- a second process -------------------------------------------------------------------------

PROCESS = """
import asyncio, sys
from rag.cache import RedisFlights
from rag.redis_link import RedisLink
from rag.types import Token
from tests.test_cache import finished

async def ask():
    if sys.argv[3] == "speaking":
        yield Token("one ")
    print("asked", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    yield Token("two")
    yield finished("one two")

async def main():
    flights = RedisFlights(RedisLink(sys.argv[1]), sys.argv[2], lease=0.5)
    async for event in flights.follow("k", ask):
        pass

asyncio.run(main())
"""


@contextlib.contextmanager
def leader(url: str, prefix: str, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has asked, and goes on when it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROCESS, url, prefix, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "asked\n"
            yield process
        finally:
            process.kill()


def test_an_answer_of_another_process_is_followed_as_it_comes(redis_url: str, prefix: str) -> None:
    async def scene(process: subprocess.Popen[str]) -> None:
        server = Server(redis_url, prefix)
        asked = Asked(FAILED)
        follower = server.follow(asked)
        await follower.has(1)
        assert follower.seen == [Token("one ")]
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        await follower.task
        assert text_of(follower.seen) == "one two"
        assert asked.calls == 0

    with leader(redis_url, prefix, "speaking") as process:
        run(scene(process))
        assert process.wait(30) == 0


def test_a_killed_process_that_had_begun_to_speak_is_a_failure(redis_url: str, prefix: str) -> None:
    async def scene(process: subprocess.Popen[str]) -> None:
        follower = Server(redis_url, prefix).follow(Asked(*TWO))
        await follower.has(1)
        process.kill()
        await follower.task
        assert follower.seen[0] == Token("one ")
        assert isinstance(follower.seen[1], Failed)

    with leader(redis_url, prefix, "speaking") as process:
        run(scene(process))


def test_a_killed_process_that_had_said_nothing_is_replaced(redis_url: str, prefix: str) -> None:
    async def scene(process: subprocess.Popen[str]) -> None:
        server = Server(redis_url, prefix)
        asked = Asked(*TWO)
        follower = server.follow(asked)
        watched: list[bytes] = []
        while not watched:
            watched = [key for key in await server.keys(prefix) if b":watched:" in key]
        assert asked.calls == 0
        process.kill()
        await follower.task
        assert text_of(follower.seen) == "one two"
        assert asked.calls == 1

    with leader(redis_url, prefix, "silent") as process:
        run(scene(process))
