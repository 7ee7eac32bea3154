"""What a collection holds; among it the terms of chunks, for Milvus 2.5 and later to rank by BM25.

Terms are `rag.text.terms`, separated by spaces, so that Milvus's own analysis has nothing to do and
its keywords are those of our own index.
"""

from __future__ import annotations

import math
import re
from importlib import metadata
from typing import Any, Literal

from rag.text import terms

Keywords = Literal["auto", "local", "server"]

_HNSW = {"M": 16, "efConstruction": 200}
TERMS, SPARSE = "terms", "sparse"
K1, B = 1.2, 0.75  # as in our own index
_MOST_BYTES = 65_535  # Milvus's own
_NONE = "_"  # no term looks like it, and Milvus does not get an empty vector
_SINCE = (2, 5)


def fitting(text: str) -> str:
    """The terms of a text, as many of the first as Milvus takes."""
    joined = " ".join(terms(text)) or _NONE
    if len(joined.encode()) <= _MOST_BYTES:
        return joined
    cut = joined.encode()[: _MOST_BYTES + 1].decode(errors="ignore")
    return cut[: cut.rindex(" ")]


def has_bm25(version: str) -> bool:
    """Whether a server of this version ranks by BM25."""
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _SINCE


def planned(client: Any, dimension: int, *, is_lite: bool, with_terms: bool) -> tuple[Any, Any]:
    """The schema and the indexes of a collection that is to be made."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("document", DataType.INT64)
    schema.add_field("added_in", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = client.prepare_index_params()
    kind: dict[str, Any] = {"index_type": "FLAT"}
    if not is_lite:
        kind = {"index_type": "HNSW", "params": _HNSW}
    index.add_index("vector", metric_type="IP", **kind)
    if with_terms:
        _add_terms(schema, index, is_lite=is_lite)
    return schema, index


def _add_terms(schema: Any, index: Any, *, is_lite: bool) -> None:
    from pymilvus import DataType, Function, FunctionType

    schema.add_field(
        TERMS,
        DataType.VARCHAR,
        max_length=_MOST_BYTES,
        enable_analyzer=True,
        analyzer_params={"tokenizer": _tokenizer(is_lite=is_lite)},
    )
    schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25",
            function_type=FunctionType.BM25,
            input_field_names=[TERMS],
            output_field_names=[SPARSE],
        )
    )
    index.add_index(
        SPARSE,
        index_type="SPARSE_INVERTED_INDEX",
        metric_type="BM25",
        params={"bm25_k1": K1, "bm25_b": B},
    )


def _tokenizer(*, is_lite: bool) -> str:
    """Milvus Lite 3 knows no "whitespace", and its "standard" (`\\w+`) cuts our terms alike."""
    if is_lite and int(metadata.version("milvus-lite").split(".")[0]) >= 3:
        return "standard"
    return "whitespace"


def saturation(count: int, length: int, average: float) -> float:
    """What BM25 multiplies a term's idf by, for a text that holds it so often."""
    return count * (K1 + 1) / (count + K1 * (1 - B + B * length / average))


def highest_idf(chunks: int) -> float:
    """That of a term no chunk holds."""
    return math.log(1 + (chunks + 0.5) / 0.5)
