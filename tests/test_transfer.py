"""Knowledge bases move between stores, and from LangChain, without embedding anything."""

from __future__ import annotations

import copyreg
import datetime
import io
import json
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rag.errors import (
    ConfigError,
    DamagedStoreError,
    FingerprintError,
    NotFoundError,
    StoreError,
)
from rag.stores.embedded import EmbeddedStore
from rag.transfer import export, import_langchain, import_parquet, parquet
from rag.transfer.unpickle import read_docstore
from rag.types import Chunk, Document, Element
from tests.fakes import FakeEmbedder
from tests.test_generations import found_by
from tests.test_store_contract import EMBEDDER, MINE, OTHER, found, make, names, publish, put


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], EmbeddedStore]]:
    stores: list[EmbeddedStore] = []

    def open_one(name: str) -> EmbeddedStore:
        stores.append(EmbeddedStore(tmp_path / name))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[str], EmbeddedStore]) -> EmbeddedStore:
    return opened("base")


@pytest.fixture
def target(opened: Callable[[str], EmbeddedStore]) -> EmbeddedStore:
    return opened("target")


# --- Parquet --------------------------------------------------------------------------------------


def rich() -> tuple[Document, list[Chunk]]:
    """A document and chunks with nothing left at its default."""
    document, chunks = make("folder/ü 年假.md", "第一段 😀", "zweiter", tags=("hr", "标签"))
    row = Element("row", 0, 6, ("H", "I"), 2, "S", 7)
    document = replace(document, elements=(*document.elements, row))
    return document, [replace(chunks[0], rows=((0, 3, 1), (3, 6, 2)), page=None), chunks[1]]


@pytest.mark.parquet
def test_everything_comes_back_and_nothing_is_embedded(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path
) -> None:
    document, chunks = rich()
    with store.writer(MINE) as writer:
        writer.put(document, chunks, EMBEDDER.embed_documents([c.embedded_text for c in chunks]))
        put(writer, "empty.md")
        put(writer, "b.md", "hotel", "costs")
        writer.publish()
    before, embedded, told = found_by(EMBEDDER, store, "年假"), EMBEDDER.texts, []
    done = export(store, tmp_path / "out", on_document=told.append)
    assert (done.documents, done.chunks, done.generation) == (3, 4, 1)
    assert told == [3]
    came = import_parquet(tmp_path / "out", target)
    assert (came.documents, came.chunks, came.unchanged, came.generation) == (3, 4, 0, 1)
    assert EMBEDDER.texts == embedded
    assert target.fingerprint == MINE
    assert target.document(document.id) == document
    assert target.chunks(document.id) == chunks
    assert [replace(i, updated_at="") for i in target.documents()] == [
        replace(i, updated_at="") for i in store.documents()
    ]
    assert found_by(EMBEDDER, target, "年假") == pytest.approx(before, abs=1e-6)


@pytest.mark.parquet
def test_every_field_of_a_chunk_and_of_an_element_has_its_column() -> None:
    columns = set(parquet._chunk_schema(4).names)
    assert columns == {field.name for field in fields(Chunk)} | {"vector"}
    element = parquet._document_schema().field("elements").type.value_type
    assert {f.name for f in element} == {field.name for field in fields(Element)}
    content = {field.name for field in fields(Document)} - {"notes", "lacking"}  # said on ingesting
    assert set(parquet._document_schema().names) == content | {"chunks"}


@pytest.mark.parquet
def test_it_goes_out_and_in_by_batches(
    store: EmbeddedStore,
    target: EmbeddedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 3)
    publish(store, *((f"{n}.md", *(f"zebra {n}/{m}" for m in range(n))) for n in range(9)))
    told: list[int] = []
    export(store, tmp_path / "out", on_document=told.append)
    assert told == sorted(told)
    assert len(told) > 2
    import_parquet(tmp_path / "out", target)
    assert found(target, "zebra") == found(store, "zebra")
    assert all(target.chunks(f"id-{n}.md") == store.chunks(f"id-{n}.md") for n in range(9))


@pytest.mark.parquet
def test_what_is_published_meanwhile_is_not_in_it(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 1)
    publish(store, *((f"{n}.md", f"old {n}") for n in range(4)))

    def interrupt(done: int) -> None:
        publish(store, *((f"{n}.md", f"new {n} {done}") for n in range(4)), remove=["3.md"])

    export(store, tmp_path / "out", on_document=interrupt)
    import_parquet(tmp_path / "out", target)
    assert set(found(target, "?")) == {f"old {n}" for n in range(4)}


@pytest.mark.parquet
def test_it_comes_beside_what_is_there_or_in_its_place(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path
) -> None:
    publish(store, ("a.md", "年假"))
    export(store, tmp_path / "out")
    with target.writer(MINE) as writer:
        put(writer, "a.md", "other", version="2")
        put(writer, "b.md", "hotel")
        writer.publish()
    import_parquet(tmp_path / "out", target)
    assert names(target) == ["a.md", "b.md"]
    assert set(found(target, "?")) == {"年假", "hotel"}
    again = import_parquet(tmp_path / "out", target)
    assert (again.documents, again.unchanged, again.generation) == (0, 1, 2)
    import_parquet(tmp_path / "out", target, replacing=True)
    assert names(target) == ["a.md"]


@pytest.mark.parquet
def test_other_vectors_are_refused(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path
) -> None:
    publish(store, ("a.md", "年假"))
    export(store, tmp_path / "out")
    other = FakeEmbedder(model="other", dimension=8)
    document, chunks = make("x.md", "x")
    with target.writer(other.fingerprint) as writer:
        writer.put(document, chunks, other.embed_documents(["x"]))
        writer.publish()
    with pytest.raises(FingerprintError, match="fake"):
        import_parquet(tmp_path / "out", target)
    import_parquet(tmp_path / "out", target, replacing=True)
    assert target.fingerprint == MINE


@pytest.mark.parquet
@pytest.mark.parametrize("file", ["documents.parquet", "chunks.parquet"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-9])])
def test_a_damaged_file_changes_nothing(
    store: EmbeddedStore,
    target: EmbeddedStore,
    tmp_path: Path,
    file: str,
    harm: Callable[[Path], object],
) -> None:
    publish(store, ("a.md", "年假"))
    export(store, tmp_path / "out")
    harm(tmp_path / "out" / file)
    with pytest.raises(DamagedStoreError, match=file):
        import_parquet(tmp_path / "out", target)
    assert target.generation == 0


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "metadata.json"
    told = json.loads(path.read_text("utf-8"))
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parquet
@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(chunks=7),
        lambda told: told.pop("fingerprint"),
        lambda told: told.update(files=3),
        lambda told: told["fingerprint"].update(dimension=32),
    ],
)
def test_metadata_that_does_not_fit_changes_nothing(
    store: EmbeddedStore,
    target: EmbeddedStore,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
) -> None:
    publish(store, ("a.md", "年假"))
    export(store, tmp_path / "out")
    changed(tmp_path / "out", change)
    with pytest.raises(DamagedStoreError):
        import_parquet(tmp_path / "out", target)
    assert target.generation == 0
    with target.writer(MINE) as writer:
        assert dict(writer.known()) == {}


@pytest.mark.parquet
def test_a_newer_format_and_a_wrong_folder_are_named(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path
) -> None:
    publish(store, ("a.md", "年假"))
    export(store, tmp_path / "out")
    with pytest.raises(StoreError, match="there already"):
        export(store, tmp_path / "out")
    changed(tmp_path / "out", lambda told: told.update(format=9))
    with pytest.raises(StoreError, match="format 9"):
        import_parquet(tmp_path / "out", target)
    with pytest.raises(NotFoundError):
        import_parquet(tmp_path, target)
    with pytest.raises(NotFoundError):
        export(target, tmp_path / "nothing")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parquet
def test_one_wrong_document_brings_in_none(
    store: EmbeddedStore, target: EmbeddedStore, tmp_path: Path
) -> None:
    publish(store, ("a.md", "年假"))
    document, (chunk,) = make("b.md", "hotel")
    with store.writer(MINE) as writer:
        writer.put(document, [replace(chunk, start=1)], EMBEDDER.embed_documents(["hotel"]))
        writer.publish()
    export(store, tmp_path / "out")
    publish(target, ("a.md", "was there"))
    with pytest.raises(DamagedStoreError, match=r"b\.md.*place"):
        import_parquet(tmp_path / "out", target)
    publish(target, ("c.md", "the next ingest"))
    assert set(found(target, "?")) == {"was there", "the next ingest"}


def test_a_missing_pyarrow_is_told_with_the_install_line(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for call in (
        lambda: export(store, tmp_path / "out"),
        lambda: import_parquet(tmp_path, store),
    ):
        with pytest.raises(ConfigError, match="pyarrow") as caught:
            call()
        assert "rag-server[parquet]" in caught.value.hint


# --- LangChain ------------------------------------------------------------------------------------

PIECES = [
    ("Ten days a year.", {"source": "docs/leave.pdf", "page": 0}),
    ("员工年假 every year.", {"source": "docs/leave.pdf", "page": 3, "title": "Leave"}),
    ("Money comes on the 5th.", {"source": "/abs/pay.md", "when": datetime.date(2026, 1, 2)}),
    ("Nobody knows whence.", {"tags": ["a", {"b": (1, None, 2.5, True)}]}),
    ("More of the first.", {"source": "docs/leave.pdf", "page": 4}),
    ("   ", {"source": "docs/blank.md"}),
]


def langchain() -> tuple[Any, Any, Any]:
    """FAISS, InMemoryDocstore and Document, as long as langchain-community has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS
        from langchain_core.documents import Document as LangChainDocument
    return FAISS, InMemoryDocstore, LangChainDocument


def langchain_folder(folder: Path, index: str | None = None, pieces: Any = PIECES) -> Path:
    """Made by LangChain itself; `index` is FAISS's name of another kind than the flat one."""
    import faiss

    FAISS, InMemoryDocstore, LangChainDocument = langchain()
    documents = [LangChainDocument(page_content=t, metadata=m) for t, m in pieces]
    if index is None:
        held = FAISS.from_documents(documents, EMBEDDER)  # type: ignore[arg-type]
    else:
        empty = faiss.index_factory(64, index)
        empty.train(EMBEDDER.embed_documents([f"text {n}" for n in range(200)]))
        held = FAISS(EMBEDDER.embed_query, empty, InMemoryDocstore(), {})
        held.add_documents(documents)
    held.save_local(str(folder))
    return folder


def test_a_folder_of_langchain_answers_without_embedding(
    target: EmbeddedStore, tmp_path: Path
) -> None:
    folder, embedded = langchain_folder(tmp_path / "faiss"), EMBEDDER.texts
    came = import_langchain(folder, target, MINE)
    assert EMBEDDER.texts == embedded
    assert (came.documents, came.chunks, came.notes) == (3, 5, ())
    assert names(target) == ["abs/pay.md", "docs/leave.pdf", "langchain"]
    expected = {text for text, _ in PIECES if text.strip()}
    cosines = found_by(EMBEDDER, target, "年假 every year")
    assert set(cosines) == expected
    question = EMBEDDER.embed_query("年假 every year")
    for text in expected:
        assert cosines[text] == pytest.approx(
            float(EMBEDDER.embed_query(text) @ question), abs=1e-5
        )
    (leave,) = (i for i in target.documents() if i.name == "docs/leave.pdf")
    assert (leave.type, leave.title, leave.uri) == ("pdf", "leave", "langchain:docs/leave.pdf")
    document, chunks = target.document(leave.id), target.chunks(leave.id)
    assert [(c.text, c.page) for c in chunks] == [
        ("Ten days a year.", 1),
        ("员工年假 every year.", 4),
        ("More of the first.", 5),
    ]
    assert all(c.text == document.text[c.start : c.end] for c in chunks)
    assert document.text == "\n\n".join(c.text for c in chunks)


@pytest.mark.parametrize("kind", ["IVF4,Flat", "HNSW8", "SQ8", "PCAR64,Flat", "IVF2,SQ8"])
def test_other_indexes_give_their_vectors_too(
    target: EmbeddedStore, tmp_path: Path, kind: str
) -> None:
    came = import_langchain(langchain_folder(tmp_path / "faiss", kind), target, MINE)
    assert came.chunks == 5
    assert bool(came.notes) == ("SQ8" in kind or "PCA" in kind)
    question = EMBEDDER.embed_query("年假")
    for text, cosine in found_by(EMBEDDER, target, "年假").items():
        assert cosine == pytest.approx(float(EMBEDDER.embed_query(text) @ question), abs=0.05)


def test_one_after_deletions_too(target: EmbeddedStore, tmp_path: Path) -> None:
    FAISS, _, _ = langchain()
    held = FAISS.from_texts(
        [f"zebra {n}" for n in range(6)],
        EMBEDDER,  # type: ignore[arg-type]
        metadatas=[{"source": f"{n % 2}.txt"} for n in range(6)],
    )
    held.delete([held.index_to_docstore_id[1], held.index_to_docstore_id[4]])
    held.save_local(str(tmp_path / "faiss"))
    import_langchain(tmp_path / "faiss", target, MINE)
    assert found(target, "zebra") == {f"zebra {n}": f"{n % 2}.txt" for n in (0, 2, 3, 5)}
    question = EMBEDDER.embed_query("zebra 3")
    for text, cosine in found_by(EMBEDDER, target, "zebra 3").items():
        assert cosine == pytest.approx(float(EMBEDDER.embed_query(text) @ question), abs=1e-5)


def test_vectors_of_another_model_are_noticed(target: EmbeddedStore, tmp_path: Path) -> None:
    folder = langchain_folder(tmp_path / "faiss")
    with pytest.raises(FingerprintError, match="64 dimensions, those of other 8"):
        import_langchain(folder, target, replace(OTHER, dimension=8))
    stranger = FakeEmbedder(model="stranger")
    turned = lambda texts: np.roll(EMBEDDER.embed_documents(texts), 7, axis=1)  # noqa: E731
    with pytest.raises(FingerprintError, match="not of stranger"):
        import_langchain(folder, target, stranger.fingerprint, embed=turned)
    assert target.generation == 0
    before = EMBEDDER.texts
    assert import_langchain(folder, target, MINE, embed=EMBEDDER.embed_documents).chunks == 5
    assert EMBEDDER.texts - before <= 8


def test_a_lone_surrogate_is_no_character(target: EmbeddedStore, tmp_path: Path) -> None:
    pieces = [("half \ud83d emoji", {"source": "a\udc80.md"})]
    folder = tmp_path / "faiss"
    langchain_folder(folder, pieces=[("half ? emoji", {"source": "a?.md"})])
    (folder / "index.pkl").write_bytes(langchain_pickle(pieces))
    import_langchain(folder, target, MINE)
    assert found(target, "emoji") == {"half ? emoji": "a?.md"}


def test_files_that_do_not_belong_together_are_refused(
    target: EmbeddedStore, tmp_path: Path
) -> None:
    folder = langchain_folder(tmp_path / "faiss")
    (folder / "index.pkl").write_bytes(langchain_pickle(PIECES[:2]))
    with pytest.raises(DamagedStoreError, match="6 vectors, 2 ids"):
        import_langchain(folder, target, MINE)
    (folder / "index.pkl").write_bytes(langchain_pickle(PIECES, lost=True))
    with pytest.raises(DamagedStoreError, match="is no document"):
        import_langchain(folder, target, MINE)
    (folder / "index.faiss").write_bytes(b"IxFI" + b"\xff" * 60)
    with pytest.raises(DamagedStoreError, match=r"index\.faiss"):
        import_langchain(folder, target, MINE)
    (folder / "index.faiss").unlink()
    with pytest.raises(NotFoundError, match=r"index\.faiss"):
        import_langchain(folder, target, MINE)
    assert target.generation == 0


# --- the pickle -----------------------------------------------------------------------------------


def langchain_pickle(pieces: Any, protocol: int | None = None, *, lost: bool = False) -> bytes:
    _, InMemoryDocstore, LangChainDocument = langchain()
    documents = {
        f"id{n}": LangChainDocument(page_content=text, metadata=metadata)
        for n, (text, metadata) in enumerate(pieces)
    }
    ids = {n: f"id{n}" for n in range(len(pieces))}
    if lost:
        del documents["id0"]
    return pickle.dumps((InMemoryDocstore(documents), ids), protocol)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(protocol: int) -> None:
    held = read_docstore(langchain_pickle(PIECES, protocol), "index.pkl")
    assert [held.documents[held.ids[n]][0] for n in range(len(PIECES))] == [t for t, _ in PIECES]
    assert held.documents["id1"][1] == PIECES[1][1]


@pytest.mark.parametrize(
    ("store", "document"),
    [
        ("langchain.docstore.in_memory", "langchain.schema"),
        ("langchain.docstore.in_memory", "langchain.docstore.document"),
        ("langchain_community.docstore.in_memory", "langchain.schema.document"),
        ("langchain_classic.docstore.in_memory", "langchain_core.documents.base"),
    ],
)
@pytest.mark.parametrize("pydantic_1", [True, False])
def test_the_paths_of_older_versions_are_known(store: str, document: str, pydantic_1: bool) -> None:
    """Written by hand: those modules need not be there, and are not imported if they are."""
    fields_set = "__fields_set__" if pydantic_1 else "__pydantic_fields_set__"
    piece = hand_made(
        document,
        "Document",
        {
            "__dict__": {"page_content": "text", "metadata": {"source": "a"}},
            fields_set: {"metadata", "page_content"},
        },
    )
    data = pickled(({"a": piece}, {0: "a"}), store)
    before = set(sys.modules)
    held = read_docstore(data, "index.pkl")
    assert (held.documents, held.ids) == ({"a": ("text", {"source": "a"})}, {0: "a"})
    assert set(sys.modules) - before == set()


class HandMade:
    """Pickled as an instance of a class that need not exist."""

    def __init__(self, module: str, name: str, state: object) -> None:
        self.module, self.name, self.state = module, name, state


def hand_made(module: str, name: str, state: object) -> HandMade:
    return HandMade(module, name, state)


class Writer(pickle._Pickler):  # type: ignore[name-defined, misc]
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, HandMade):
            self.write(f"c{obj.module}\n{obj.name}\n".encode() + b")\x81")
            self.save(obj.state)
            self.write(b"b")
        else:
            super().save(obj, save_persistent_id)


def pickled(content: tuple[object, object], store: str) -> bytes:
    buffer = io.BytesIO()
    documents, ids = content
    Writer(buffer, 2).dump((hand_made(store, "InMemoryDocstore", {"_dict": documents}), ids))
    return buffer.getvalue()


def by_hand(pieces: Any) -> bytes:
    """As LangChain writes it, without LangChain."""
    documents = {
        f"id{n}": hand_made(
            "langchain_core.documents.base",
            "Document",
            {"__dict__": {"page_content": text, "metadata": metadata}},
        )
        for n, (text, metadata) in enumerate(pieces)
    }
    ids = {n: f"id{n}" for n in range(len(pieces))}
    return pickled((documents, ids), "langchain_community.docstore.in_memory")


class Runs:
    """On unpickling, calls."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class RunsWithState(Runs):
    def __reduce__(self) -> Any:
        return (*self.call, {"a": 1}, iter([1]), iter([(1, 2)]))


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


OPENED = b"\x80\x04"
HOSTILE = {
    "os.system": pickle.dumps(Runs(os.system, "touch /tmp/never-ever")),
    "posix.system": OPENED + _global("posix", "system") + _short("id") + b"\x85R.",
    "eval": pickle.dumps(Runs(eval, "1+1")),
    "old eval": pickle.dumps(Runs(eval, "1+1"), 0),
    "exec": pickle.dumps(Runs(exec, "1")),
    "getattr": pickle.dumps(Runs(getattr, "", "format")),
    "import": pickle.dumps(Runs(__import__, "os")),
    "chain": pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system")),
    "with state": pickle.dumps(RunsWithState(os.getcwd)),
    "inside a document": by_hand([("x", {"source": Runs(os.getcwd)})]),
    "copyreg": pickle.dumps(Runs(copyreg._reconstructor, Runs, object, None)),  # type: ignore[attr-defined]
    "stack global": OPENED + _short("os") + _short("system") + b"\x93" + _short("id") + b"\x85R.",
    "dotted name": OPENED
    + _short("langchain_core.documents.base")
    + _short("Document.__init__.__globals__")
    + b"\x93.",
    "dotted module": OPENED + _short("builtins.set") + _short("__class__") + b"\x93.",
    "name built on the stack": OPENED + b"]" + _short("system") + b"\x93.",
    "class of a class": OPENED + _global("builtins", "type") + b".",
    "other class of langchain": OPENED + _global("langchain_core.load.load", "loads") + b".",
    "instance by name": b"(S'id'\nios\nsystem\n.",
    "instance by stack": b"(" + _global("os", "system") + b"S'id'\no.",
    "persistent": b"Pid\n.",
    "binary persistent": OPENED + _short("id") + b"Q.",
    "extension": OPENED + b"\x82\x01.",
    "huge extension": OPENED + b"\x84\xff\xff\xff\x7f.",
    "huge memo": OPENED + b"Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "huge old memo": b"Np99999999999999999999\n.",
    "memo that is not there": OPENED + b"h\x07.",
    "huge text": OPENED + b"\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "huge bytes": OPENED + b"\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "huge byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "huge frame": OPENED + b"\x95" + struct.pack("<Q", 2**62) + b"N.",
    "huge number": b"L" + b"9" * 100_000 + b"L\n.",
    "buffer": b"\x80\x05\x97.",
    "changes a class": OPENED + _global("langchain.schema", "Document") + b"}b.",
    "calls an instance": OPENED + _global("langchain.schema", "Document") + b")\x81)R.",
    "calls a text": OPENED + _short("os") + b")R.",
    "key that hashes forever": OPENED + b"}" + b")" + b"2\x86" * 200 + b"Ns.",
    "set that hashes forever": OPENED + b"\x8f(" + b")" + b"2\x86" * 200 + b"\x90.",
    "no end": OPENED + b"N",
    "empty": b"",
    "nothing on the stack": b".",
    "marks only": b"((((t.",
    "no pickle": b"PK\x03\x04 something else",
    "another object": pickle.dumps({"a": 1}),
    "pair of others": pickle.dumps(([], {})),
    "recursive": OPENED + b"]\x94h\x00a.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object) -> None:
        pytest.fail(f"it ran: {arguments}")

    monkeypatch.setattr(os, "system", forbidden)
    monkeypatch.setattr(os, "getcwd", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    with pytest.raises(
        DamagedStoreError, match=r"index\.pkl is not what LangChain writes"
    ) as error:
        read_docstore(data, "index.pkl")
    assert "Nothing of it was run" in error.value.hint


WHOLE = by_hand(PIECES)


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_a_changed_pickle_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    try:
        held = read_docstore(bytes(data), "index.pkl")
    except DamagedStoreError:
        return
    assert all(type(text) is str for text, _ in held.documents.values())


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedStoreError):
        read_docstore(OPENED + data, "index.pkl")
