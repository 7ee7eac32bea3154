"""A Milvus server that is killed at any moment of an ingest, and started again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from rag.errors import StoreError
from rag.stores.milvus import MilvusStore, outbox
from rag.stores.milvus.verify import verify
from tests.milvus_server import DEADLINE, MilvusServer
from tests.test_store_contract import MINE, found, names, put
from tests.test_store_milvus import open_at, rows_in_milvus

Texts = Mapping[str, tuple[str, ...]]

MOMENTS = 6  # for each seed; until a killed server answers again, 12 seconds pass
LONGEST = 1.2  # seconds: a little beyond what an ingest takes, as its end is tested too
AT_ONCE = 3.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    server = MilvusServer(tmp_path / "server")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def goal(turn: int) -> Texts:
    """What is to be seen after a turn: some documents anew, some longer or shorter, some gone."""
    versions = {n: turn - (turn - n) % 3 for n in range(30) if (n + turn) % 7}
    return {
        f"{n}.md": tuple(f"年假 {n} {i} in {version}" for i in range(1 + (n + version) % 3))
        for n, version in versions.items()
    }


def ingest(store: MilvusStore, wanted: Texts) -> None:
    with store.writer(MINE) as writer:
        known = writer.known()
        for uri, info in known.items():
            if info.name not in wanted:
                writer.remove(uri)
        for name, texts in wanted.items():
            held = known.get(f"file:{name}")
            if held is None or held.content_hash != str(texts):
                put(writer, name, *texts, version=str(texts))
        writer.publish()


def seen(store: MilvusStore) -> Texts:
    """By the question, and the same by the records."""
    store.refresh()
    texts: dict[str, tuple[str, ...]] = dict.fromkeys(names(store), ())
    for text, name in found(store, "年假").items():
        texts[name] += (text,)
    return {name: tuple(sorted(held)) for name, held in texts.items()}


def came_through(running: Future[None]) -> bool:
    """Whether the ingest survived the server's death, or was told of it."""
    error = running.exception(DEADLINE)
    if error is not None and not isinstance(error, StoreError):
        raise error
    return error is None


@pytest.mark.slow
@pytest.mark.milvus
@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_killed_at_any_moment_loses_doubles_and_half_shows_nothing(
    seed: int, tmp_path: Path, server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_INSERT", 5)
    generator = random.Random(seed)
    writer, reader = open_at(tmp_path, server.uri), open_at(tmp_path, server.uri)
    hasty = open_at(tmp_path, server.uri, timeout=0.5)
    ingest(writer, goal(0))
    assert seen(reader) == seen(hasty) == goal(0)
    thread = ThreadPoolExecutor(1)
    for turn in range(1, MOMENTS + 1):
        running = thread.submit(ingest, writer, goal(turn))
        wait([running], generator.uniform(0, LONGEST))  # the moment is what is tested
        server.kill()
        told_at_once(hasty)
        server.start()
        if not came_through(running):
            assert seen(reader) in (goal(turn - 1), goal(turn))
            ingest(writer, goal(turn))
        assert seen(reader) == goal(turn)
        assert works_again(hasty) == goal(turn)
        assert verify(reader).ok
        assert rows_in_milvus(tmp_path, server.uri) == [sum(map(len, goal(turn).values()))]
    thread.shutdown()
    for store in (writer, reader, hasty):
        store.close()


def told_at_once(store: MilvusStore) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1") as caught:
        found(store, "年假")
    assert caught.value.hint
    assert time.monotonic() - began < AT_ONCE


def works_again(store: MilvusStore) -> Texts:
    """The same object, without being told: a started server needs a moment to load its data."""
    until = time.monotonic() + DEADLINE
    while True:
        try:
            return seen(store)
        except StoreError:
            assert time.monotonic() < until
