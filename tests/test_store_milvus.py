"""What the Milvus store promises beyond the contract: crashes, lost parts, clear errors."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rag.application import ApplicationDatabase
from rag.errors import BusyError, StoreError
from rag.stores.milvus import MilvusStore, knowledge_bases, outbox
from rag.stores.milvus.vectors import Milvus, Rows
from rag.types import ChunkStore, Filters, Fingerprint
from tests.fakes import FakeEmbedder
from tests.milvus_server import MilvusServer
from tests.services import free_port
from tests.test_store_contract import EMBEDDER, MINE, Died, found, make, names, publish, put

TOKEN = "root:not-to-be-shown"
Open = Callable[..., MilvusStore]


def open_at(place: Path, uri: str, **options: Any) -> MilvusStore:
    options = {"folder": place / "caches", "timeout": 30.0} | options
    database = ApplicationDatabase(f"sqlite:///{place / 'rag.db'}")
    return MilvusStore("base", database, uri=uri, **options)


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Open]:
    """Opens a store on Milvus Lite at the test's own place."""
    opened: list[MilvusStore] = []

    def another(**options: Any) -> MilvusStore:
        opened.append(open_at(tmp_path, str(tmp_path / "milvus.db"), **options))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


def rows_in_milvus(place: Path, uri: str | None = None) -> list[int]:
    """How many rows each collection there holds."""
    milvus = Milvus(uri or str(place / "milvus.db"), timeout=30)
    counts = [milvus.count(name) for name in milvus.names("rag_")]
    milvus.close()
    return counts


def chunks_of(store: ChunkStore) -> int:
    return sum(info.chunks for info in store.documents())


# --- errors that name the next step ---------------------------------------------------------------


def test_without_pymilvus_the_install_line_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    store = open_at(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="not installed") as caught:
        publish(store, ("a.md", "年假"))
    assert caught.value.hint == "pip install 'rag-server[milvus]'"


def test_nothing_is_asked_of_milvus_before_it_is_needed(tmp_path: Path) -> None:
    store = open_at(tmp_path, "http://127.0.0.1:1")
    assert names(store) == []
    assert found(store, "年假") == {}
    with store.writer(MINE) as writer:
        put(writer, "a.md", "年假")
        assert list(writer.known()) == ["file:a.md"]
        assert len(writer.vectors(["Title of a.md\n年假"])) == 1


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_server_that_is_not_there_is_named_without_secrets_and_loses_nothing(
    tmp_path: Path,
) -> None:
    port = free_port()
    uri = f"http://{TOKEN}@127.0.0.1:{port}"
    store = open_at(tmp_path, uri, token=TOKEN, timeout=0.5)
    with pytest.raises(StoreError) as caught:
        publish(store, ("a.md", "年假"))
    assert f"http://127.0.0.1:{port}" in caught.value.message
    assert "not-to-be-shown" not in str(caught.value)
    assert "RAG_MILVUS_URI" in caught.value.hint
    with store.writer(MINE) as writer:
        assert list(writer.known()) == ["file:a.md"]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_collection_of_another_dimension_is_an_error(lite: Open, tmp_path: Path) -> None:
    milvus = Milvus(str(tmp_path / "milvus.db"), timeout=30)
    milvus.ensure("rag_x", 32)
    with pytest.raises(StoreError, match=r"\[32\].*64") as caught:
        milvus.ensure("rag_x", 64)
    assert "rag reindex" in caught.value.hint
    milvus.close()


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_vectors_that_milvus_lost_are_an_error_not_an_empty_answer(
    lite: Open, tmp_path: Path
) -> None:
    store = lite()
    publish(store, ("a.md", "年假"))
    milvus = Milvus(str(tmp_path / "milvus.db"), timeout=30)
    (name,) = milvus.names("rag_")
    milvus.drop(name)
    with pytest.raises(StoreError, match="not in Milvus") as caught:
        found(store, "年假")
    assert "rag repair" in caught.value.hint
    milvus.close()


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_single_vectors_that_milvus_lost_are_found_and_told(
    lite: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = lite()
    publish(store, ("a.md", "年假"), ("b.md", "hotel"), ("c.md", "zebra"))
    found(store, "hotel")
    assert "rag repair" not in caplog.text
    (hotel,) = [c for c in store.search("hotel", EMBEDDER.embed_query("hotel"), limit=9) if c.share]
    milvus = Milvus(str(tmp_path / "milvus.db"), timeout=30)
    (name,) = milvus.names("rag_")
    milvus.delete(name, [hotel.chunk_id])
    assert found(store, "hotel") == {"年假": "a.md", "zebra": "c.md"}
    assert "rag repair" in caplog.text
    milvus.close()


_OPEN_LITE = """
import sys
from rag.stores.milvus.vectors import Milvus
milvus = Milvus(sys.argv[1], timeout=30)
milvus.ensure("rag_other", 8)
print("holding", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_lite_file_of_another_process_is_told_as_such(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OPEN_LITE, str(tmp_path / "milvus.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holding\n"
        milvus = Milvus(str(tmp_path / "milvus.db"), timeout=30)
        with pytest.raises(BusyError, match="another process") as caught:
            milvus.names("rag_")
        assert "server" in caught.value.hint
        other.kill()


# --- what is in Milvus is what is seen ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_milvus_holds_a_row_for_each_chunk_and_no_other(lite: Open, tmp_path: Path) -> None:
    store = lite()
    for version in range(4):
        publish(
            store,
            *((f"{n}.md", f"年假 {version}", f"hotel {n}") for n in range(version, 6)),
            ("0.md", "put twice"),
            remove=[f"{version}.md"] if version else (),
        )
    assert rows_in_milvus(tmp_path) == [chunks_of(store)]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_send_that_failed_half_way_is_made_good_by_the_next_writer(
    lite: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lite()
    publish(store, ("old.md", "old 年假"))
    insert = Milvus.insert

    def lost_reply(self: Milvus, name: str, rows: Rows, *, again: bool) -> None:
        insert(self, name, replace(rows, **_first(rows, 3)), again=again)
        raise StoreError("The server went away.")

    with monkeypatch.context() as patch:
        patch.setattr(Milvus, "insert", lost_reply)
        with pytest.raises(StoreError, match="went away"):
            publish(store, *((f"{n}.md", f"年假 {n}") for n in range(8)))
    assert names(store) == ["old.md"]
    assert found(store, "年假") == {"old 年假": "old.md"}
    with lite().writer(MINE) as writer:
        assert len(writer.known()) == 9
        put(writer, "0.md", "年假 anew")
        writer.publish()
    store.refresh()
    assert len(found(store, "年假")) == 9
    assert rows_in_milvus(tmp_path) == [9]


def _first(rows: Rows, count: int) -> dict[str, Any]:
    return {
        "ids": rows.ids[:count],
        "documents": rows.documents[:count],
        "added_in": rows.added_in[:count],
        "vectors": rows.vectors[:count],
    }


@pytest.mark.slow
@pytest.mark.milvus_lite
@pytest.mark.parametrize("call", ["insert", "delete", "settle", "drop"])
def test_a_writer_that_dies_at_any_call_to_milvus_leaves_what_the_next_mends(
    call: str, lite: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reader = lite(), lite()
    publish(store, ("a.md", "旧的 年假"), ("b.md", "hotel"), ("gone.md", "gone"))
    other = FakeEmbedder(model="other", dimension=32)

    def rebuild(target: MilvusStore) -> None:
        with target.writer(other.fingerprint, replacing=True) as writer:
            for name, text in (("a.md", "新的 年假"), ("a.md", "newest 年假"), ("b.md", "hotel")):
                document, chunks = make(name, text)
                writer.put(document, chunks, other.embed_documents([text]))
                writer._outbox.send()
            writer.publish()

    def dying(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Milvus, call, dying)
        with pytest.raises(Died):
            rebuild(store)
    reader.refresh()
    seen = reader.documents()
    assert [i.name for i in seen] in (["a.md", "b.md", "gone.md"], ["a.md", "b.md"])
    rebuild(lite())
    reader.refresh()
    vector = other.embed_query("年假")
    candidates = reader.search("年假", vector, limit=10)
    texts = {chunk.text for chunk, _, _ in reader.fetch([c.chunk_id for c in candidates]).values()}
    assert texts == {"newest 年假", "hotel"}
    assert rows_in_milvus(tmp_path) == [2]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_reader_follows_to_other_vectors_whose_old_ones_are_gone(lite: Open) -> None:
    store, reader = lite(), lite()
    publish(store, ("a.md", "年假"))
    assert found(reader, "年假")
    with store.writer(MINE, replacing=True) as writer:
        put(writer, "b.md", "年假 again")
        writer.publish()
    assert found(reader, "年假") == {"年假 again": "b.md"}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_rows_of_a_database_that_lost_its_last_moments_are_not_believed(
    lite: Open, tmp_path: Path
) -> None:
    path, saved = tmp_path / "rag.db", tmp_path / "saved.db"
    database = ApplicationDatabase(f"sqlite:///{path}")
    options: dict[str, Any] = {"uri": str(tmp_path / "milvus.db"), "folder": tmp_path / "caches"}
    first = MilvusStore("base", database, **options, timeout=30)
    publish(first, ("a.md", "年假"))
    database.close()
    shutil.copy(path, saved)
    publish(first, ("b.md", "hotel"), ("c.md", "zebra"))
    database.close()
    shutil.copy(saved, path)
    store = lite()
    publish(store, ("d.md", "laptop"))
    assert found(store, "hotel zebra laptop") == {"年假": "a.md", "laptop": "d.md"}
    (candidate,) = [
        c for c in store.search("laptop", EMBEDDER.embed_query("laptop"), limit=9) if c.share
    ]
    expected = EMBEDDER.embed_documents(["Title of d.md\nlaptop"])[0]
    assert candidate.dense == pytest.approx(
        float(expected @ EMBEDDER.embed_query("laptop")), abs=1e-5
    )
    assert rows_in_milvus(tmp_path) == [2]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_lost_keyword_index_is_made_anew_without_embedding(lite: Open, tmp_path: Path) -> None:
    publish(lite(), ("a.md", "年假"), ("b.md", "hotel"))
    calls = EMBEDDER.calls
    store = lite(folder=tmp_path / "elsewhere")
    vector = EMBEDDER.embed_query("年假")
    assert [c.keyword > 0 for c in store.search("年假", vector, limit=1)] == [True]
    assert EMBEDDER.calls == calls + 1


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_many_rows_go_in_several_sends(
    lite: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_INSERT", 7)
    store = lite()
    publish(store, *((f"{n}.md", f"年假 {n}", f"hotel {n}") for n in range(20)))
    assert rows_in_milvus(tmp_path) == [40]
    with store.writer(MINE) as writer:
        texts = [f"Title of {n}.md\n年假 {n}" for n in range(20)]
        vectors = writer.vectors(texts)
    assert list(vectors) == texts
    assert found(store, "年假", filters=Filters(documents=("3.md",))) == {
        "年假 3": "3.md",
        "hotel 3": "3.md",
    }


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_knowledge_bases_share_a_database_and_nothing_else(tmp_path: Path) -> None:
    database = ApplicationDatabase(f"sqlite:///{tmp_path / 'rag.db'}")
    assert knowledge_bases(database) == []
    options: dict[str, Any] = {"uri": str(tmp_path / "milvus.db"), "folder": tmp_path / "caches"}
    one = MilvusStore("one", database, **options, timeout=30)
    two = MilvusStore("two", database, **options, timeout=30)
    publish(one, ("a.md", "年假"), ("b.md", "hotel"))
    publish(two, ("a.md", "年假 of two"))
    assert found(one, "年假") == {"年假": "a.md", "hotel": "b.md"}
    assert found(two, "年假") == {"年假 of two": "a.md"}
    assert knowledge_bases(database) == ["one", "two"]
    one.close()
    two.close()


@pytest.mark.slow
@pytest.mark.milvus_lite
@pytest.mark.postgres
def test_records_may_be_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    databases = [ApplicationDatabase(postgres_url) for _ in range(2)]
    opened = [
        MilvusStore(
            "base",
            database,
            uri=str(tmp_path / "milvus.db"),
            folder=tmp_path / f"machine-{number}",
            timeout=30,
        )
        for number, database in enumerate(databases)
    ]
    store, reader = opened
    publish(store, ("a.md", "第一段 \x00 ﻿", "年假 😀"), ("b.md", "hotel"))
    assert found(reader, "年假") == {"第一段 \x00 ﻿": "a.md", "年假 😀": "a.md", "hotel": "b.md"}
    with store.writer(MINE) as writer:
        put(writer, "a.md", "年假 anew")
        with (
            pytest.raises(BusyError, match="another machine"),
            reader.writer(Fingerprint(model="fake", revision="1", dimension=64)),
        ):
            pytest.fail("two writers at once")
        writer.remove("file:b.md")
        writer.publish()
    reader.refresh()
    assert found(reader, "年假 hotel") == {"年假 anew": "a.md"}
    with reader.writer(MINE) as writer:
        assert len(writer.vectors(["Title of a.md\n年假 anew"])) == 1
    assert rows_in_milvus(tmp_path) == [1]
    for each in (*opened, *databases):
        each.close()  # type: ignore[attr-defined]


# --- killed ---------------------------------------------------------------------------------------

_INGEST = """
import sys
from pathlib import Path
import rag.stores.milvus.outbox as outbox
from tests.test_store_contract import MINE, put
from tests.test_store_milvus import open_at
outbox._INSERT = 5
store = open_at(Path(sys.argv[1]), sys.argv[2])
print("open", flush=True)
with store.writer(MINE) as writer:
    known = writer.known()
    for n in range(40):
        if f"file:{n}.md" not in known or n % 5 == 0:
            put(writer, f"{n}.md", *(f"年假 {n} {i}" for i in range(n % 4)))
    writer.remove("file:old.md")
    writer.publish()
print("done", flush=True)
"""


def ingest_killed(place: Path, uri: str, after: float | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INGEST, str(place), uri],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as ingest:
        assert ingest.stdout is not None
        assert ingest.stdout.readline() == "open\n"
        if after is None:
            assert ingest.stdout.readline() == "done\n"
            assert ingest.wait() == 0
        else:
            try:
                ingest.wait(after)  # the moment is what is tested
            except subprocess.TimeoutExpired:
                ingest.send_signal(signal.SIGKILL)


def check_after_kills(place: Path, uri: str, moments: list[float]) -> None:
    store = open_at(place, uri)
    publish(store, ("old.md", "old 年假"))
    store.close()
    _release(uri)
    for moment in moments:
        ingest_killed(place, uri, moment)
        assert names(open_at(place, uri)) in (["old.md"], sorted(f"{n}.md" for n in range(40)))
    ingest_killed(place, uri, None)
    store = open_at(place, uri)
    expected = {f"年假 {n} {i}": f"{n}.md" for n in range(40) for i in range(n % 4)}
    assert found(store, "年假") == expected
    assert len(names(store)) == 40
    store.close()
    assert len(expected) in rows_in_milvus(place, uri)


def _release(uri: str) -> None:
    """Lets another process open the Lite file: this one keeps its server until it ends."""
    if uri.endswith(".db"):
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(uri)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_an_ingest_killed_at_any_moment_converges_with_milvus_lite(tmp_path: Path) -> None:
    generator = random.Random(4)
    moments = [generator.uniform(0, 1.5) for _ in range(6)]
    check_after_kills(tmp_path, str(tmp_path / "milvus.db"), moments)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_an_ingest_killed_at_random_moments_ends_as_a_clean_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash.milvus_killer", str(tmp_path), "20", "4"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    told = json.loads(done.stdout)
    assert told["wrong"] == [], told
    assert told["at_work"] >= 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MilvusServer]:
    """One of the test's own, which it may kill."""
    server = MilvusServer(tmp_path / "server")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.milvus
def test_an_ingest_killed_at_any_moment_converges_with_a_server(
    tmp_path: Path, server: MilvusServer
) -> None:
    generator = random.Random(4)
    check_after_kills(tmp_path, server.uri, [generator.uniform(0, 3) for _ in range(6)])


@pytest.mark.slow
@pytest.mark.milvus
def test_a_server_killed_in_mid_ingest_loses_nothing_and_readers_recover(
    tmp_path: Path, server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_INSERT", 20)
    store = open_at(tmp_path, server.uri, timeout=0.5)
    publish(store, *((f"old/{n}.md", f"年假 old {n}") for n in range(30)))
    reader = open_at(tmp_path, server.uri, timeout=2.0)
    assert len(found(reader, "年假")) == 30

    def ingest() -> None:
        with store.writer(MINE) as writer:
            for n in range(200):
                if n == 90:
                    server.kill()
                put(writer, f"new/{n}.md", f"年假 new {n}")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        ingest()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1") as caught:
        found(reader, "年假")
    assert caught.value.hint
    server.start()
    patient = open_at(tmp_path, server.uri)
    assert set(found(patient, "年假")) == {f"年假 old {n}" for n in range(30)}
    with patient.writer(MINE) as writer:
        assert len(writer.known()) >= 30 + 90
        for n in range(200):
            if f"file:new/{n}.md" not in writer.known():
                put(writer, f"new/{n}.md", f"年假 new {n}")
        writer.publish()
    reader.refresh()
    assert len(found(reader, "年假", limit=500)) == 230
    assert rows_in_milvus(tmp_path, server.uri) == [230]
    for each in (store, reader, patient):
        each.close()


@pytest.mark.slow
@pytest.mark.milvus
def test_a_wrong_token_is_told_and_not_shown(tmp_path: Path) -> None:
    server = MilvusServer(tmp_path / "server", password_needed=True)
    try:
        server.start()
        store = open_at(tmp_path, server.uri, token=TOKEN, timeout=5.0)
        with pytest.raises(StoreError, match="token") as caught:
            publish(store, ("a.md", "年假"))
        assert "not-to-be-shown" not in str(caught.value)
        assert "RAG_MILVUS_TOKEN" in caught.value.hint
        right = open_at(tmp_path, server.uri, token="root:Milvus")
        with right.writer(MINE) as writer:
            assert list(writer.known()) == ["file:a.md"]
            writer.publish()
        right.refresh()
        assert found(right, "年假") == {"年假": "a.md"}
    finally:
        server.kill()
