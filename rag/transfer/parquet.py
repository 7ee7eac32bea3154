"""Documents, chunks and vectors as Parquet: a folder other programs can read.

metadata.json       format, fingerprint, counts, and the checksum of each file
documents.parquet   a row a document, with its text
chunks.parquet      a row a chunk, in the order of the documents, with its vector
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag import __version__
from rag.errors import ConfigError, DamagedStoreError, NotFoundError, StoreError
from rag.stores.contents import Contents, HasContents
from rag.transfer.putting import HasWriter, Imported, put_all
from rag.types import Chunk, Document, Element, Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix

    Row = tuple[Document, list[Chunk], Matrix]

FORMAT = 1
_METADATA = "metadata.json"
_DOCUMENTS = "documents.parquet"
_CHUNKS = "chunks.parquet"
_ROWS_AT_ONCE = 2_048  # chunks, and at most as many documents: what memory holds
_CHARACTERS_AT_ONCE = 16_000_000
_MAX_METADATA = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    documents: int
    chunks: int
    generation: int
    bytes: int


def _nothing(_: int) -> None:
    return None


# --- out ------------------------------------------------------------------------------------------


def export(
    store: HasContents, folder: Path, *, on_document: Callable[[int], None] = _nothing
) -> Exported:
    """Writes what is published to a new folder, which is there as a whole or not at all.

    Readers and writers go on meanwhile. Raises StoreError if `folder` holds something or cannot be
    written, ConfigError without pyarrow, NotFoundError if nothing was ever published.
    """
    _pyarrow()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is there already.", "Choose a new folder.")
    beside = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    with _explained(folder), ExitStack() as stack:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        contents = stack.enter_context(store.contents())
        if contents.fingerprint is None:
            raise NotFoundError("There is nothing to export: nothing was ever ingested.")
        _write(contents, contents.fingerprint, beside, on_document)
        size = _describe(contents, contents.fingerprint, beside)
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    return Exported(
        documents=contents.documents,
        chunks=contents.chunks,
        generation=contents.generation,
        bytes=size,
    )


def _write(
    contents: Contents, fingerprint: Fingerprint, folder: Path, on_document: Callable[[int], None]
) -> None:
    from pyarrow import parquet

    documents, chunks = _document_schema(), _chunk_schema(fingerprint.dimension)
    with (
        parquet.ParquetWriter(
            folder / _DOCUMENTS, documents, compression="zstd", use_dictionary=False
        ) as document_file,
        parquet.ParquetWriter(
            folder / _CHUNKS, chunks, compression="zstd", use_dictionary=False
        ) as chunk_file,
    ):
        done = 0
        for batch in _batches(contents.rows):
            document_file.write_batch(_document_batch(batch, documents))
            for start in range(0, sum(len(row[1]) for row in batch), _ROWS_AT_ONCE):
                chunk_file.write_batch(_chunk_batch(batch, start, chunks))
            done += len(batch)
            on_document(done)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    chunks = characters = 0
    for row in rows:
        batch.append(row)
        chunks += len(row[1])
        characters += len(row[0].text)
        if max(chunks, len(batch)) >= _ROWS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield batch
            batch, chunks, characters = [], 0, 0
    if batch:
        yield batch


def _document_batch(batch: Sequence[Row], schema: Any) -> Any:
    import pyarrow as pa

    rows = [
        {
            "id": document.id,
            "uri": document.uri,
            "name": document.name,
            "type": document.type,
            "title": document.title,
            "text": document.text,
            "elements": [asdict(element) for element in document.elements],
            "content_hash": document.content_hash,
            "settings_hash": document.settings_hash,
            "size": document.size,
            "tags": document.tags,
            "chunks": len(chunks),
        }
        for document, chunks, _ in batch
    ]
    return pa.RecordBatch.from_pylist(rows, schema)


def _chunk_batch(batch: Sequence[Row], start: int, schema: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    end = start + _ROWS_AT_ONCE
    chunks = [chunk for row in batch for chunk in row[1]][start:end]
    vectors = np.concatenate([row[2] for row in batch])[start:end]
    values = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns = [
        pa.array([getattr(chunk, field.name) for chunk in chunks], field.type)
        for field in schema
        if field.name != "vector"
    ]
    columns.append(pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _describe(contents: Contents, fingerprint: Fingerprint, folder: Path) -> int:
    files = {name: _file(folder / name) for name in (_DOCUMENTS, _CHUNKS)}
    told = {
        "format": FORMAT,
        "program": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "generation": contents.generation,
        "fingerprint": asdict(fingerprint),
        "documents": contents.documents,
        "chunks": contents.chunks,
        "files": files,
    }
    (folder / _METADATA).write_text(json.dumps(told, indent=2, ensure_ascii=False), "utf-8")
    return sum(int(file["bytes"]) for file in files.values())


def _file(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


# --- in -------------------------------------------------------------------------------------------


def import_parquet(
    folder: Path,
    store: HasWriter,
    *,
    replacing: bool = False,
    on_document: Callable[[int], None] = _nothing,
) -> Imported:
    """Puts what `export` wrote into a store, beside what is there or (`replacing`) in its place.

    Nothing is embedded. Checksums, counts and each chunk's place are checked; what is wrong changes
    nothing. Raises DamagedStoreError, FingerprintError if the store holds other vectors, StoreError
    for a newer format, ConfigError without pyarrow, NotFoundError.
    """
    _pyarrow()
    told, fingerprint = _metadata(folder)
    for name in (_DOCUMENTS, _CHUNKS):
        if not (folder / name).is_file() or _file(folder / name) != told["files"].get(name):
            raise _damaged(folder, f"{name} is not what was exported")
    return put_all(
        _rows(folder, int(told["documents"]), int(told["chunks"])),
        store,
        fingerprint,
        replacing=replacing,
        on_document=on_document,
    )


def _metadata(folder: Path) -> tuple[dict[str, Any], Fingerprint]:
    path = folder / _METADATA
    if not path.is_file():
        raise NotFoundError(f"There is no exported knowledge base in {folder}.", "Check the path.")
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MAX_METADATA))
        version = int(told["format"])
        if version <= FORMAT:
            int(told["documents"]), int(told["chunks"]), told["files"].get(_CHUNKS)
            return told, Fingerprint(**told["fingerprint"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(folder, f"{_METADATA} cannot be read ({error})") from None
    raise StoreError(
        f"{folder} is of format {version}; formats up to {FORMAT} are known.",
        "Upgrade with: pip install --upgrade rag-server",
    )


def _rows(folder: Path, documents: int, chunks: int) -> Iterator[Row]:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with (
            parquet.ParquetFile(folder / _DOCUMENTS) as document_file,
            parquet.ParquetFile(folder / _CHUNKS) as chunk_file,
        ):
            held = (document_file.metadata.num_rows, chunk_file.metadata.num_rows)
            if held != (documents, chunks):
                raise _damaged(folder, f"it holds {held}, not {(documents, chunks)} rows")
            pieces = _chunks(chunk_file)
            for row in _documents(document_file):
                count = row.pop("chunks")
                own = [next(pieces) for _ in range(count)]
                document = Document(**row)
                if any(chunk.document_id != document.id for chunk, _ in own):
                    raise _damaged(folder, f"the chunks of {document.name} are not its own")
                shape = (count, -1) if count else (0, _dimension(chunk_file))
                vectors = np.array([v for _, v in own], np.float32).reshape(shape)
                yield document, [chunk for chunk, _ in own], vectors
            if next(pieces, None) is not None:
                raise _damaged(folder, "there are chunks of no document")
    except (pa.ArrowException, TypeError, ValueError, KeyError, OSError, RuntimeError) as error:
        # RuntimeError: a generator whose chunks ended too soon
        raise _damaged(folder, str(error)) from None


def _documents(file: Any) -> Iterator[dict[str, Any]]:
    for group in range(file.num_row_groups):
        for row in file.read_row_group(group).to_pylist():
            row["tags"] = tuple(row["tags"])
            row["elements"] = tuple(
                Element(**{**element, "heading": tuple(element["heading"])})
                for element in row["elements"]
            )
            yield row


def _chunks(file: Any) -> Iterator[tuple[Chunk, Any]]:
    dimension = _dimension(file)
    # Not iter_batches, which keeps what it has read.
    for group in range(file.num_row_groups):
        batch = file.read_row_group(group)
        values = batch.column("vector").combine_chunks().flatten().to_numpy()
        vectors = values.reshape(len(batch), dimension)
        rows = batch.drop_columns(["vector"]).to_pylist()
        for row, vector in zip(rows, vectors, strict=True):
            row["heading"] = tuple(row["heading"])
            row["rows"] = tuple(tuple(numbers) for numbers in row["rows"])
            yield Chunk(**row), vector


def _dimension(file: Any) -> int:
    return int(file.schema_arrow.field("vector").type.list_size)


# --- what both need -------------------------------------------------------------------------------


def _document_schema() -> Any:
    import pyarrow as pa

    element = pa.struct(
        [
            ("kind", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("heading", pa.list_(pa.string())),
            ("page", pa.int64()),
            ("sheet", pa.string()),
            ("row", pa.int64()),
        ]
    )
    texts = ("id", "uri", "name", "type", "title", "text", "content_hash", "settings_hash")
    return pa.schema(
        [(name, pa.string()) for name in texts]
        + [
            ("elements", pa.list_(element)),
            ("size", pa.int64()),
            ("tags", pa.list_(pa.string())),
            ("chunks", pa.int64()),
        ]
    )


def _chunk_schema(dimension: int) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("document_id", pa.string()),
            ("ordinal", pa.int64()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("text", pa.string()),
            ("context", pa.string()),
            ("heading", pa.list_(pa.string())),
            ("page", pa.int64()),
            ("sheet", pa.string()),
            ("rows", pa.list_(pa.list_(pa.int64()))),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )


def _pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow.", "Install it: pip install 'rag-server[parquet]'"
        ) from None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error}.",
            "Check the disk's free space and the folder's permissions.",
        ) from error


def _damaged(folder: Path, reason: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{folder} is damaged: {reason}.", "Nothing was changed. Export it again."
    )
