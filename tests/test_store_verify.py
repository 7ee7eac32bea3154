"""`verify` names whatever does not agree; `repair` mends it without embedding what is known."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from rag.errors import BusyError, DamagedStoreError, NotFoundError
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.repair import repair
from rag.stores.embedded.verify import DATABASE, verify
from rag.stores.files import exclusive
from rag.stores.indexes import vectors
from rag.stores.indexes.sealed import Sealing, is_intact, read_seal
from rag.stores.soundness import Repaired
from rag.types import Candidate, Fingerprint
from tests.fakes import FakeEmbedder
from tests.test_store_contract import EMBEDDER, MINE, make, put
from tests.test_store_contract import publish as publish_in

WORDS = ("年假", "hotel", "costs", "zebra", "病假", "laptop")
QUESTIONS = ("zebra 年假", "hotel costs", "病假 laptop")


class Model:
    """What `repair` asks for vectors, and counts."""

    def __init__(self) -> None:
        self.embedder = FakeEmbedder()
        self.texts: list[str] = []

    def __call__(self, fingerprint: Fingerprint, texts: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
        assert fingerprint == MINE
        self.texts += texts
        return self.embedder.embed_documents(texts)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy: 12 documents of 3 chunks, one replaced, one removed."""
    place = tmp_path_factory.mktemp("sound") / "base"
    store = EmbeddedStore(place)
    for generation in range(2):
        publish_in(
            store,
            *(
                (f"{n}.md", *(f"{WORDS[(n + k) % 6]} {n} {k} v{generation}" for k in range(3)))
                for n in range(generation * 5, generation * 5 + 8)
            ),
            remove=[f"{generation}.md"],
        )
    store.close()
    return place


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "base"))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def db(place: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(place / "knowledge.db", isolation_level=None)
    yield connection
    connection.close()


def contents(place: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Names of documents, their chunks and vectors."""
    with sqlite3.connect(place / "knowledge.db") as connection:
        rows = connection.execute(
            "SELECT d.name, c.text, v.vector FROM documents d"
            " JOIN chunks c ON c.document_key = d.key JOIN vectors v ON v.chunk_id = c.id"
            " WHERE d.removed_in IS NULL ORDER BY d.name, c.ordinal"
        ).fetchall()
    connection.close()
    found: dict[str, list[tuple[str, bytes]]] = {}
    for name, text, vector in rows:
        found.setdefault(name, []).append((text, vector))
    return found


def results(place: Path) -> list[list[Candidate]]:
    store = EmbeddedStore(place)
    found = [
        sorted(
            (
                Candidate(c.chunk_id, round(c.dense, 4), 0, 0, round(c.share, 4), c.via)
                for c in store.search(q, EMBEDDER.embed_query(q), limit=99)
            ),
            key=lambda c: c.chunk_id,
        )
        for q in QUESTIONS
    ]
    store.close()
    return found


def said(place: Path) -> str:
    return " | ".join(f"{f.kind}: {f.what}" for f in verify(place).findings)


# --- sound ----------------------------------------------------------------------------------------


def test_a_sound_knowledge_base_is_found_sound_and_counted(place: Path) -> None:
    found = verify(place)
    assert found.ok
    assert (found.generation, found.documents) == (2, 11)
    assert found.chunks == found.vectors == found.in_vector_index == found.in_keyword_index == 33


def test_repairing_what_is_sound_changes_nothing(place: Path, model: Model) -> None:
    before, expected = contents(place), results(place)
    assert repair(place, embed=model) == Repaired()
    assert contents(place) == before
    assert results(place) == expected
    assert verify(place).generation == 2
    assert model.texts == []


def test_verifying_changes_nothing_even_where_much_is_wrong(place: Path) -> None:
    next(place.glob("keywords-*/*.store")).unlink()
    next(place.glob("vectors.*.faiss")).write_bytes(b"")

    def files() -> dict[str, bytes]:
        return {
            str(p.relative_to(place)): p.read_bytes()
            for p in place.rglob("*")
            if p.is_file() and not p.name.startswith("knowledge.db-") and p.suffix != ".lock"
        }

    before = files()
    assert not verify(place).ok
    assert files() == before


def test_there_must_be_a_knowledge_base(tmp_path: Path, model: Model) -> None:
    with pytest.raises(NotFoundError, match="no knowledge base"):
        verify(tmp_path)
    with pytest.raises(NotFoundError, match="no knowledge base"):
        repair(tmp_path, embed=model)


def test_documents_that_are_staged_and_generations_behind_are_no_fault(place: Path) -> None:
    store = EmbeddedStore(place)
    with store.writer(MINE) as writer:
        put(writer, "staged.md", "zebra staged")
    assert verify(place).ok
    assert verify(place).documents == 11
    old = place.with_name("old")
    shutil.copytree(place, old)
    publish_in(store, ("new.md", "zebra new"))
    store.close()
    for path in [*place.glob("vectors.*"), *place.glob("keywords-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in [*old.glob("vectors.*"), *old.glob("keywords-*")]:
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy(path, place)
    found = verify(place)
    assert found.ok, found
    assert found.in_keyword_index == found.in_vector_index == found.chunks == 35


# --- rows -----------------------------------------------------------------------------------------

NEEDLE = "SELECT c.id FROM chunks c JOIN documents d ON d.key = c.document_key"
SECOND = f"({NEEDLE} WHERE d.name = '3.md' AND d.removed_in IS NULL AND c.ordinal = 1)"


def of_length(length: float) -> bytes:
    return np.full(64, length / 8, "<f4").tobytes()


BAD_VECTORS = {
    "lost": f"DELETE FROM vectors WHERE chunk_id = {SECOND}",
    "nan": (f"UPDATE vectors SET vector = ? WHERE chunk_id = {SECOND}", of_length(float("nan"))),
    "short": (f"UPDATE vectors SET vector = ? WHERE chunk_id = {SECOND}", of_length(1)[:-4]),
    "long": (f"UPDATE vectors SET vector = ? WHERE chunk_id = {SECOND}", of_length(2)),
    "negated": (
        f"UPDATE vectors SET vector = ? || substr(vector, 5) WHERE chunk_id = {SECOND}",
        b"\x01\x02\x03\x3d",
    ),
    "zero": (f"UPDATE vectors SET vector = ? WHERE chunk_id = {SECOND}", bytes(256)),
}


def spoil(db: sqlite3.Connection, kind: str) -> None:
    change = BAD_VECTORS[kind]
    if isinstance(change, str):
        db.execute(change)
    else:
        db.execute(change[0], (change[1],))


@pytest.mark.parametrize("kind", BAD_VECTORS)
def test_a_damaged_vector_is_named_and_embedded_again_alone(
    place: Path, db: sqlite3.Connection, model: Model, kind: str
) -> None:
    before, expected = contents(place), results(place)
    spoil(db, kind)
    found = verify(place)
    (finding,) = found.findings
    assert (finding.kind, finding.document, finding.chunk) == ("vector", "3.md", 1)
    assert "3.md" in finding.what
    assert found.vectors == found.chunks - 1
    repaired = repair(place, embed=model)
    assert len(model.texts) == repaired.embedded == 1
    assert "zebra" not in repaired.read_again
    assert verify(place).ok
    assert contents(place) == before
    assert results(place) == expected


def test_a_vector_whose_text_stands_elsewhere_is_not_embedded(place: Path, model: Model) -> None:
    store = EmbeddedStore(place)
    publish_in(store, ("twice.md", "zebra same", "hotel", "zebra same"))
    store.close()
    before = contents(place)
    with sqlite3.connect(place / "knowledge.db") as db:
        db.execute(
            "UPDATE vectors SET vector = zeroblob(9) WHERE chunk_id ="
            f" ({NEEDLE} WHERE d.name = 'twice.md' AND c.ordinal = 2)"
        )
    db.close()
    assert not verify(place).ok
    assert repair(place, embed=model).embedded == 0
    assert verify(place).ok
    assert contents(place) == before


def test_an_open_reader_sees_the_mended_vector(
    place: Path, db: sqlite3.Connection, model: Model
) -> None:
    expected = results(place)
    spoil(db, "zero")
    for path in place.glob("vectors.*"):
        path.unlink()
    reader = EmbeddedStore(place)
    reader.refresh()
    repair(place, embed=model)
    assert reader.refresh()
    question = QUESTIONS[0]
    found = {
        c.chunk_id: round(c.dense, 4)
        for c in reader.search(question, EMBEDDER.embed_query(question), limit=99)
    }
    assert found == {c.chunk_id: c.dense for c in expected[0]}
    reader.close()


DOCUMENT_FAULTS = {
    "a chunk is lost": (f"DELETE FROM chunks WHERE id = {SECOND}", "should have chunks 0 to 2"),
    "a chunk is twice": (
        'INSERT INTO chunks (document_key, ordinal, start, "end", text, context, heading,'
        ' text_hash) SELECT document_key, ordinal, start, "end", text, context, heading,'
        f" text_hash FROM chunks WHERE id = {SECOND}",
        "should have chunks 0 to 2 and has 4",
    ),
    "offsets": (
        f"UPDATE chunks SET start = start + 1 WHERE id = {SECOND}",
        "Chunk 1 of 3.md is not found at characters",
    ),
    "another context": (
        f"UPDATE chunks SET context = 'x' WHERE id = {SECOND}",
        "Chunk 1 of 3.md does not have the text that it was embedded for",
    ),
    "text": (
        "UPDATE documents SET text = replace(text, 'v', 'w') WHERE name = '3.md'",
        "Chunk 0 of 3.md is not found",
    ),
    "not utf-8": (
        f"UPDATE chunks SET text = CAST(x'ff41' AS TEXT) WHERE id = {SECOND}",
        "Chunk 1 of 3.md",
    ),
}


@pytest.mark.parametrize("kind", DOCUMENT_FAULTS)
def test_a_document_that_is_not_whole_is_named_and_left_for_the_next_ingest(
    place: Path, db: sqlite3.Connection, model: Model, kind: str
) -> None:
    before = contents(place)
    change, expected = DOCUMENT_FAULTS[kind]
    db.execute(change)
    assert expected in said(place)
    repaired = repair(place, embed=model)
    assert repaired.read_again == ["3.md"]
    assert any("3.md" in sentence for sentence in repaired.done)
    assert verify(place).ok, said(place)
    del before["3.md"]
    assert contents(place) == before
    assert model.texts == []
    store = EmbeddedStore(place)
    question = EMBEDDER.embed_query("zebra")
    names = {
        n
        for _, n, _ in store.fetch(
            [c.chunk_id for c in store.search("zebra", question, limit=99)]
        ).values()
    }
    assert names == before.keys()
    with store.writer(MINE) as writer:
        assert "file:3.md" not in writer.known()
    store.close()


def test_what_an_ingest_that_died_had_written_is_not_shown_by_a_repair(
    place: Path, db: sqlite3.Connection, model: Model
) -> None:
    store = EmbeddedStore(place)
    with store.writer(MINE) as writer:
        put(writer, "staged.md", "zebra staged")
        writer.remove("file:4.md")
    spoil(db, "zero")
    repair(place, embed=model)
    store.refresh()
    assert "staged.md" not in {d.name for d in store.documents()}
    assert "4.md" in {d.name for d in store.documents()}
    assert verify(place).ok
    with store.writer(MINE) as writer:
        assert "file:staged.md" in writer.known()
        writer.publish()
    assert "staged.md" in {d.name for d in store.documents()}
    assert verify(place).ok
    store.close()


def test_rows_that_belong_to_nothing_are_counted_and_dropped(
    place: Path, db: sqlite3.Connection, model: Model
) -> None:
    expected = results(place)
    db.execute("INSERT INTO vectors (chunk_id, vector) VALUES (9999, zeroblob(8))")
    db.execute(
        'INSERT INTO chunks (document_key, ordinal, start, "end", text, context, heading,'
        " text_hash) VALUES (777, 0, 0, 1, 'x', '', '[]', x'00')"
    )
    assert "1 rows of the table chunks" in said(place)
    assert "1 rows of the table vectors" in said(place)
    assert len(repair(place, embed=model).done) == 2
    assert verify(place).ok
    assert results(place) == expected


def test_a_document_that_is_there_twice_is_named(place: Path, db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE documents SET uri = 'file:3.md', name = '3.md' WHERE name = '4.md'"
        " AND removed_in IS NULL"
    )
    assert "The document 3.md is there twice." in said(place)


# --- indexes --------------------------------------------------------------------------------------


def lost(path: Path, _: Path) -> None:
    path.unlink()


def truncated(path: Path, _: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def flipped(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.unlink()
    path.write_bytes(data)


def foreign(path: Path, other: Path) -> None:
    """The whole index of another knowledge base, of the same generation and size."""
    if path.suffix == ".faiss":
        shutil.copy(next(other.glob("vectors.*.faiss")), path)
    else:
        shutil.rmtree(path.parent)
        shutil.copytree(other / path.parent.name, path.parent)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Equal in all numbers, with other texts."""
    place = tmp_path_factory.mktemp("another") / "base"
    store = EmbeddedStore(place)
    for generation in range(2):
        publish_in(
            store,
            *(
                (f"{n}.md", *(f"other {n} {k}" for k in range(3)))
                for n in range(generation * 5, generation * 5 + 8)
            ),
            remove=[f"{generation}.md"],
        )
    store.close()
    return place


HARMS = [lost, truncated, flipped, foreign]


def chosen(place: Path, kind: str) -> Path:
    if kind == "vector":
        return next(place.glob("vectors.*.faiss"))
    return max(place.glob("keywords-*/*.store"))


@pytest.mark.parametrize("harm", HARMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["vector", "keyword"])
def test_a_harmed_index_is_named_and_made_again_without_embedding(
    place: Path, another: Path, model: Model, kind: str, harm: Callable[[Path, Path], None]
) -> None:
    expected = results(place)
    harm(chosen(place, kind), another)
    assert [f.kind for f in verify(place).findings] == [f"{kind} index"]
    repaired = repair(place, embed=model)
    assert len(repaired.done) == 1
    assert "made again" in repaired.done[0]
    assert model.texts == []
    assert verify(place).ok, said(place)
    assert results(place) == expected


@pytest.mark.parametrize("harm", [lost, truncated, foreign], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["vector", "keyword"])
def test_opening_notices_lost_shortened_and_foreign_indexes_and_makes_them_again(
    place: Path, another: Path, kind: str, harm: Callable[[Path, Path], None]
) -> None:
    expected = results(place)
    harm(chosen(place, kind), another)
    assert results(place) == expected
    assert verify(place).ok, said(place)


@pytest.mark.parametrize("kind", ["vectors.*", "keywords-*"])
def test_an_index_that_lags_behind_too_much_is_not_believed(place: Path, kind: str) -> None:
    old = place.with_name("old")
    shutil.copytree(place, old)
    store = EmbeddedStore(place)
    publish_in(store, ("3.md", "zebra new"), remove=["4.md"])
    expected = verify(place)
    store.close()
    for path in place.glob(kind):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in old.glob(kind):
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy(path, place)
    with sqlite3.connect(place / "knowledge.db") as db:
        db.execute("DELETE FROM removed")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('removals_since', '3')")
        db.execute("UPDATE meta SET value = '3' WHERE key = 'vectors_since'")
    db.close()
    assert not verify(place).ok
    fresh = EmbeddedStore(place)
    fresh.refresh()
    fresh.close()
    assert verify(place) == expected


@pytest.mark.parametrize("kind", ["vector", "keyword"])
def test_an_index_of_a_later_generation_never_passes_for_one_of_the_database(
    place: Path, kind: str
) -> None:
    """An older database is put back by hand: soon it has as many generations as the indexes."""
    old = place.with_name("old.db")
    shutil.copy(place / "knowledge.db", old)
    store = EmbeddedStore(place)
    publish_in(store, ("x.md", "zebra lost"))
    store.close()
    for path in place.glob("knowledge.db*"):
        path.unlink()
    shutil.copy(old, place / "knowledge.db")
    assert f"{kind} index" in {f.kind for f in verify(place).findings}
    again = EmbeddedStore(place)
    publish_in(again, ("y.md", "zebra kept"))
    again.close()
    assert verify(place).ok, said(place)


def test_a_chunk_that_an_index_lacks_or_should_not_have_is_told_by_number(place: Path) -> None:
    path, generation = vectors.base_files(place)[0]
    identity = str((read_seal(path) or {})["identity"])
    base = vectors.load_base(path, generation, 64, identity)
    assert base is not None
    matrix = np.stack([base.index.reconstruct(n) for n in range(len(base.ids))])
    ids = base.ids.copy()
    first, ids[-1] = int(ids[-1]), int(ids[-1]) + 5000
    vectors.save_base(vectors.build_base(ids, matrix, generation), place, identity)
    assert f"misses 1 chunks (ids {first})" in said(place)
    assert f"holds 1 chunks (ids {first + 5000}), not visible" in said(place)


# --- the file of the database ---------------------------------------------------------------------


def settled(place: Path) -> Path:
    """The database as one file."""
    with sqlite3.connect(place / "knowledge.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return place / "knowledge.db"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So large that its pages hold different documents."""
    place = tmp_path_factory.mktemp("large") / "base"
    store = EmbeddedStore(place)
    publish_in(
        store,
        *(
            (f"{n}.md", *(f"{WORDS[k % 6]} {n} {k} " + "lorem ipsum " * 40 for k in range(4)))
            for n in range(60)
        ),
    )
    store.close()
    settled(place)
    return place


def parts_of(damage: str, data: bytearray) -> None:
    generator = np.random.default_rng(3)
    if damage == "header":
        data[:100] = b"\x5a" * 100
    elif damage == "first page":
        data[:4096] = generator.bytes(4096)
    elif damage == "truncated":
        del data[int(len(data) * 0.8) // 4096 * 4096 :]
    elif damage == "cut in a page":
        del data[int(len(data) * 0.9) + 77 :]
    elif damage == "pages":
        pages = len(data) // 4096
        for page in generator.choice(np.arange(pages // 3, pages), 6, replace=False):
            data[page * 4096 : (page + 1) * 4096] = generator.bytes(4096)
    elif damage == "bytes":
        for position in generator.integers(len(data) // 3, len(data), 50):
            data[position] ^= int(generator.integers(1, 256))


@pytest.mark.parametrize(
    "damage", ["header", "first page", "truncated", "cut in a page", "pages", "bytes"]
)
def test_what_can_be_read_of_a_damaged_database_is_saved(
    large: Path, tmp_path: Path, model: Model, damage: str
) -> None:
    place = tmp_path / "base"
    shutil.copytree(large, place)
    before = contents(place)
    path = place / "knowledge.db"
    data = bytearray(path.read_bytes())
    parts_of(damage, data)
    path.write_bytes(data)
    assert verify(place).findings
    repaired = repair(place, embed=model)
    after = contents(place)
    assert verify(place).ok, said(place)
    kept = repaired.kept
    if kept is not None:
        assert kept.name == "knowledge.db.damaged"
        assert kept.read_bytes() == data
    missing = before.keys() - after.keys()
    assert after == {name: before[name] for name in after}
    told = {name.removeprefix("file:") for name in repaired.read_again}
    assert told <= missing
    assert len(after) >= 20
    if damage in ("header", "first page"):
        assert not missing
        assert model.texts == []
    store = EmbeddedStore(place)
    publish_in(store, *((n, *(text for text, _ in before[n])) for n in sorted(missing)))
    store.close()
    assert contents(place) == before
    assert verify(place).ok


def test_what_a_repair_that_died_had_put_aside_is_not_lost(
    large: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of changes, which the database's file does not hold yet, goes aside first."""
    place, crashed = tmp_path / "base", tmp_path / "crashed"
    shutil.copytree(large, place)
    with (
        closing(EmbeddedStore(place)) as store,
        closing(sqlite3.connect(place / DATABASE)) as other,
    ):
        other.execute("SELECT count(*) FROM meta").fetchone()
        publish_in(store, ("late.md", "zebra in the log"))
        shutil.copytree(place, crashed, ignore=shutil.ignore_patterns("*-shm"))
    data = bytearray((crashed / DATABASE).read_bytes())
    parts_of("first page", data)
    (crashed / DATABASE).write_bytes(data)
    assert (crashed / f"{DATABASE}-wal").stat().st_size

    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("rag.stores.embedded.repair.replace_durably", die)
        with pytest.raises(Died):
            repair(crashed, embed=model)
    assert not (crashed / f"{DATABASE}-wal").exists()
    repaired = repair(crashed, embed=model)
    assert "late.md" in contents(crashed)
    assert verify(crashed).ok, said(crashed)
    assert repaired.kept == crashed / f"{DATABASE}.damaged"


def test_an_open_reader_follows_to_the_saved_database(
    large: Path, tmp_path: Path, model: Model
) -> None:
    place = tmp_path / "base"
    shutil.copytree(large, place)
    reader = EmbeddedStore(place)
    reader.refresh()
    path = place / "knowledge.db"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4096 * 3)
        file.write(os.urandom(4096 * 3))
    repair(place, embed=model)
    reader.refresh()
    assert {d.name for d in reader.documents()} == contents(place).keys()
    reader.close()


def test_where_nothing_can_be_read_nothing_is_changed(place: Path, model: Model) -> None:
    path = settled(place)
    path.write_bytes(b"\x5a" * path.stat().st_size)
    before = path.read_bytes()
    with pytest.raises(DamagedStoreError, match="Nothing of use") as caught:
        repair(place, embed=model)
    assert "rag restore" in caught.value.hint
    assert path.read_bytes() == before
    assert not (place / "repairing").exists()


def test_an_embedder_that_fails_leaves_all_as_it_was(place: Path, db: sqlite3.Connection) -> None:
    spoil(db, "zero")

    def fail(_: Fingerprint, __: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
        raise BusyError("The model is not to be had.")

    before = contents(place)
    with pytest.raises(BusyError, match="not to be had"):
        repair(place, embed=fail)
    assert contents(place) == before


@pytest.mark.parametrize("lock", ["write.lock", "caches.lock"])
def test_a_repair_does_not_meddle_while_another_process_writes(
    place: Path, model: Model, lock: str
) -> None:
    with exclusive(place / lock, "testing"), pytest.raises(BusyError, match="Another process"):
        repair(place, embed=model)


# --- seals ----------------------------------------------------------------------------------------


def sealed(path: Path) -> bytes:
    with path.open("wb") as file:
        sealing = Sealing(file)
        sealing.write(b"payload " * 50)
        sealing.seal({"identity": "a", "generation": 3})
    return path.read_bytes()


def test_a_seal_tells_what_the_file_belongs_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sealed(path)
    note = read_seal(path)
    assert note is not None
    assert (note["identity"], note["generation"], note["size"]) == ("a", 3, 400)
    assert is_intact(path)


def test_no_shortened_file_has_a_seal_and_no_changed_one_is_intact(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = sealed(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read_seal(path) is None
    for position in range(0, 400, 7):
        path.write_bytes(data[:position] + b"\0" + data[position + 1 :])
        assert not is_intact(path)
    assert read_seal(tmp_path / "none") is None


def test_a_write_that_fails_is_told_when_the_file_is_sealed(tmp_path: Path) -> None:
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    sealing = Sealing(Full())  # type: ignore[arg-type]
    assert sealing.write(b"payload") == 7
    with pytest.raises(OSError, match="No space"):
        sealing.seal({})


def test_documents_without_chunks_are_sound(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "base")
    document, _ = make("empty.md")
    with store.writer(MINE) as writer:
        writer.put(document, [], np.empty((0, 64), np.float32))
        writer.publish()
    store.close()
    assert verify(tmp_path / "base").ok, said(tmp_path / "base")
