"""A FAISS folder of LangChain (`FAISS.save_local`) as documents, chunks and vectors of ours.

LangChain keeps the pieces of a text and where they came from, not the text: a document here is the
pieces of one source, one below the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rag.errors import DamagedStoreError, FingerprintError, NotFoundError
from rag.transfer.putting import HasWriter, Imported, put_all
from rag.transfer.unpickle import Docstore, read_docstore
from rag.types import Chunk, Document, Element, Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix

    Row = tuple[Document, list[Chunk], Matrix]

LANGCHAIN_FILES = ("index.faiss", "index.pkl")
_UNKNOWN = "langchain"
_BETWEEN = "\n\n"
_SAMPLE = 8
_SAME_MODEL = 0.9  # a missing prefix costs some hundredths, another model all


def _nothing(_: int) -> None:
    return None


def import_langchain(
    folder: Path,
    store: HasWriter,
    fingerprint: Fingerprint,
    *,
    embed: Callable[[Sequence[str]], Matrix] | None = None,
    replacing: bool = False,
    on_document: Callable[[int], None] = _nothing,
) -> Imported:
    """Puts what LangChain saved in `folder` into a store, beside what is there or (`replacing`) in
    its place. `fingerprint` is that of the model its vectors are of; nothing is embedded, but a few
    texts to see whether that is true, if `embed` is given.

    Raises NotFoundError, DamagedStoreError for files LangChain did not write, FingerprintError if
    the vectors are not of this model or the store holds others.
    """
    index_file, pickle_file = (folder / name for name in LANGCHAIN_FILES)
    for path in (index_file, pickle_file):
        if not path.is_file():
            raise NotFoundError(
                f"There is no {path.name} in {folder}.", "Name the folder LangChain saved to."
            )
    vectors = _Vectors(index_file, fingerprint)
    docstore = read_docstore(pickle_file.read_bytes(), str(pickle_file))
    _check(docstore, len(vectors), folder)
    if embed is not None:
        _check_model(docstore, vectors, fingerprint, embed)
    return put_all(
        _rows(docstore, vectors),
        store,
        fingerprint,
        replacing=replacing,
        on_document=on_document,
        notes=vectors.notes,
    )


class _Vectors:
    """The vectors of a FAISS index by position, brought to unit length."""

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        import faiss

        try:
            self._index: Any = faiss.read_index(str(path))
            _make_readable(self._index)
        except (RuntimeError, MemoryError, AttributeError) as error:
            raise DamagedStoreError(
                f"{path} is no FAISS index that holds its vectors: {str(error)[:200]}.",
                "Embed the documents again with: rag ingest",
            ) from None
        if self._index.d != fingerprint.dimension:
            raise FingerprintError(
                f"The vectors in {path} have {self._index.d} dimensions, those of"
                f" {fingerprint.model} {fingerprint.dimension}.",
                "Name the model they were made with: --embedding NAME",
            )
        self._path = path
        self.notes: tuple[str, ...] = ()
        lists = faiss.try_extract_index_ivf(self._index)
        kind: Any = self._index if lists is None else faiss.downcast_index(lists)
        if not isinstance(kind, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat):
            self.notes = (
                "The index holds its vectors shortened; searching may find a little less than after"
                " rag reindex.",
            )

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def at(self, positions: Sequence[int]) -> Matrix:
        import numpy as np

        try:
            found = self._index.reconstruct_batch(np.array(positions, np.int64))
        except RuntimeError as error:
            raise DamagedStoreError(
                f"{self._path} does not give its vectors: {str(error)[:200]}.",
                "Embed the documents again with: rag ingest",
            ) from None
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise DamagedStoreError(
                f"{self._path} holds a vector without a direction.",
                "Embed the documents again with: rag ingest",
            )
        unit: Matrix = (found / lengths).astype(np.float32)
        return unit


def _make_readable(index: Any) -> None:
    """Inverted lists give a vector back only with a map of where each is."""
    import faiss

    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.make_direct_map()


def _check(docstore: Docstore, vectors: int, folder: Path) -> None:
    """That every vector has a document."""
    if set(docstore.ids) != set(range(vectors)):
        raise DamagedStoreError(
            f"The files in {folder} do not belong together: {vectors} vectors,"
            f" {len(docstore.ids)} ids.",
            "Save both again with FAISS.save_local of LangChain.",
        )
    missing = next((key for key in docstore.ids.values() if key not in docstore.documents), None)
    if missing is not None:
        raise DamagedStoreError(
            f"The files in {folder} do not belong together: {missing[:80]!r} is no document.",
            "Save both again with FAISS.save_local of LangChain.",
        )


def _check_model(
    docstore: Docstore,
    vectors: _Vectors,
    fingerprint: Fingerprint,
    embed: Callable[[Sequence[str]], Matrix],
) -> None:
    import numpy as np

    step = max(len(vectors) // _SAMPLE, 1)
    positions = [
        p for p in range(0, len(vectors), step) if docstore.documents[docstore.ids[p]][0].strip()
    ][:_SAMPLE]
    if not positions:
        return
    texts = [_clean(docstore.documents[docstore.ids[p]][0]) for p in positions]
    alike = float(np.median(np.sum(embed(texts) * vectors.at(positions), axis=1)))
    if alike < _SAME_MODEL:
        raise FingerprintError(
            f"The vectors are not of {fingerprint.model}: its own of the same texts have a cosine"
            f" of {alike:.2f} with them.",
            "Name the model they were made with: --embedding NAME",
        )


# --- pieces to documents --------------------------------------------------------------------------


def _rows(docstore: Docstore, vectors: _Vectors) -> Iterator[Row]:
    for source, positions in _by_source(docstore).items():
        pieces = [docstore.documents[docstore.ids[position]] for position in positions]
        document, chunks = _document(source, pieces)
        yield document, chunks, vectors.at(positions)


def _by_source(docstore: Docstore) -> dict[str, list[int]]:
    """Positions by where the text came from; a piece without text is left out."""
    sources: dict[str, list[int]] = {}
    for position in sorted(docstore.ids):
        text, metadata = docstore.documents[docstore.ids[position]]
        if text.strip():
            source = metadata.get("source")
            name = _clean(source).strip() if type(source) is str else ""
            sources.setdefault(name or _UNKNOWN, []).append(position)
    return sources


def _document(
    source: str, pieces: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[Document, list[Chunk]]:
    texts = [_clean(text) for text, _ in pieces]
    whole = _BETWEEN.join(texts)
    uri = f"langchain:{source}"
    document_id = hashlib.sha256(uri.encode()).hexdigest()[:16]
    name = _name(source)
    chunks: list[Chunk] = []
    start = 0
    for ordinal, (text, (_, metadata)) in enumerate(zip(texts, pieces, strict=True)):
        end = start + len(text)
        chunks.append(
            Chunk(
                document_id=document_id,
                ordinal=ordinal,
                start=start,
                end=end,
                text=text,
                page=_page(metadata),
            )
        )
        start = end + len(_BETWEEN)
    title = pieces[0][1].get("title")
    document = Document(
        id=document_id,
        uri=uri,
        name=name,
        type=PurePosixPath(name).suffix.lstrip(".").lower() or "txt",
        title=(_clean(title).strip() if type(title) is str else "") or PurePosixPath(name).stem,
        text=whole,
        elements=tuple(Element("text", c.start, c.end, (), c.page) for c in chunks),
        content_hash=hashlib.sha256(whole.encode()).hexdigest(),
        settings_hash="langchain",
        size=len(whole.encode()),
    )
    return document, chunks


def _name(source: str) -> str:
    name = source.replace("\\", "/").lstrip("/")
    return name or _UNKNOWN


def _page(metadata: dict[str, Any]) -> int | None:
    """LangChain's `page` counts from 0, the `page_number` of unstructured from 1."""
    for key, first in (("page", 0), ("page_number", 1)):
        value = metadata.get(key)
        if type(value) is int and first <= value < 10**6:
            return value - first + 1
    return None


def _clean(text: str) -> str:
    """A lone surrogate, which a pickle can hold, is no character."""
    return text.encode("utf-8", "replace").decode()
