"""The dense leg: a FAISS index derived from the vectors in the database.

A `VectorIndex` is a large base, which is a file and is shared, a small delta of what came since,
and a mask of what went. It is immutable: questions go on using the one they have while the next is
made, and adding a file costs as much as that file. When delta and mask have grown to a tenth of the
base, a new base is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rag.stores.files import replace_durably
from rag.stores.indexes.codes import SCORED, choose_width, new_codes, scan, search_codes
from rag.stores.indexes.nearest import Nearest, beside
from rag.stores.indexes.sealed import Sealing, read_seal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix, Vector

    Ids = NDArray[np.int64]

# Exact search takes 40 to 70 us per 1,000 chunks (384 dimensions, one thread), the 4-bit codes with
# all that follows from them less than 1 ms at 100,000. See benchmarks/README.md.
EXACT_LIMIT = 20_000
_TRAINING = 20_000
_QUESTIONS = 200
_MIN_REBUILD = 2_000
_MAX_CHANGES = 0.1  # of the base
_LATE = 5
_MANY = 64  # of so many are looked for in a table
MAX_DELTA = 20_000  # a question pays some 3 ms for as many
_FILE = re.compile(r"vectors\.(\d+)\.faiss$")


@dataclass(frozen=True, slots=True)
class Base:
    """A FAISS index over vectors in the order of their rising chunk ids.

    `mapped` is an IndexIDMap, which is what the file holds; `index` is the one inside, whose
    positions masks are made for, and lives as long as `mapped`.
    """

    mapped: Any
    index: Any
    ids: Ids
    generation: int
    exact: bool


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The vectors of one generation. Cosines of an inexact base are only for choosing."""

    base: Base | None
    gone: NDArray[np.bool_] | None  # over the base's positions
    delta_ids: Ids
    delta: Matrix
    generation: int

    @classmethod
    def empty(cls, dimension: int) -> VectorIndex:
        import numpy as np

        return cls(None, None, np.empty(0, np.int64), np.empty((0, dimension), np.float32), 0)

    @classmethod
    def of(cls, base: Base, dimension: int) -> VectorIndex:
        import numpy as np

        nothing = np.empty((0, dimension), np.float32)
        return cls(base, None, np.empty(0, np.int64), nothing, base.generation)

    def __len__(self) -> int:
        base = 0 if self.base is None else len(self.base.ids)
        gone = 0 if self.gone is None else int(self.gone.sum())
        return base - gone + len(self.delta_ids)

    def changed(self, ids: Ids, vectors: Matrix, removed: Ids, generation: int) -> VectorIndex:
        """The index after `removed` went and `ids` (rising, all new) came."""
        import numpy as np

        gone = self.gone
        if self.base is not None and len(removed):
            places = positions_of(removed, self.base.ids)
            if len(places):
                gone = np.zeros(len(self.base.ids), bool) if gone is None else gone.copy()
                gone[places] = True
        keep = ~np.isin(self.delta_ids, removed)
        return VectorIndex(
            self.base,
            gone,
            np.concatenate([self.delta_ids[keep], ids]),
            np.concatenate([self.delta[keep], vectors]),
            generation,
        )

    @property
    def wants_rebuild(self) -> bool:
        return self.outgrown_by(0)

    def outgrown_by(self, more: int) -> bool:
        """Whether a new base is due once `more` vectors have come: for all that came since this one
        is compared one by one, and what went is still passed over."""
        base = 0 if self.base is None else len(self.base.ids)
        came = len(self.delta_ids) + more
        changes = came + (0 if self.gone is None else int(self.gone.sum()))
        due = changes > max(_MIN_REBUILD, int(base * _MAX_CHANGES)) or came > MAX_DELTA
        return due or (changes > 0 and base <= _MIN_REBUILD)

    @property
    def must_be_rebuilt(self) -> bool:
        """Whether a new base is worth waiting for: it is made in no time, or missing, or the one
        there is so old that questions suffer."""
        late = len(self.delta_ids) > _LATE * MAX_DELTA
        return self.wants_rebuild and (len(self) <= EXACT_LIMIT or self.base is None or late)

    def overwhelmed_by(self, more: int) -> bool:
        """Whether `more` vectors are too many to be taken up before a new base is made."""
        if self.base is None:
            return more > EXACT_LIMIT
        return len(self.delta_ids) + more > _LATE * MAX_DELTA

    def search(self, vector: Vector, limit: int, allowed: Ids | None) -> dict[int, float]:
        """The nearest `limit` chunks by id, of those `allowed` (rising ids) if given.

        Where search is not exact, more: the caller scores them exactly and takes the nearest.
        """
        import numpy as np

        limit = limit if self.exact else limit * SCORED
        found = self._search_base(vector, limit, allowed)
        if len(self.delta_ids):
            scores = self.delta @ vector
            if allowed is not None:
                inside = np.zeros(len(self.delta_ids), bool)
                inside[positions_of(allowed, self.delta_ids)] = True
                scores = np.where(inside, scores, -np.inf)
            best = np.argsort(-scores)[:limit]
            found |= {int(self.delta_ids[i]): float(scores[i]) for i in best if scores[i] > -np.inf}
        return dict(sorted(found.items(), key=lambda item: -item[1])[:limit])

    def _search_base(self, vector: Vector, limit: int, allowed: Ids | None) -> dict[int, float]:

        if self.base is None or not len(self.base.ids):
            return {}
        keep = None if self.gone is None else ~self.gone
        if allowed is not None:
            inside = _are_among(self.base.ids, allowed)
            keep = inside if keep is None else keep & inside
        scores, positions = search_index(self.base, vector[None, :], limit, keep)
        return {
            int(self.base.ids[p]): float(s)
            for s, p in zip(scores[0], positions[0], strict=True)
            if p >= 0
        }

    @property
    def width(self) -> float:
        """Candidates that short codes choose for each chunk asked for; 0 where search is exact."""
        return 0.0 if self.base is None or self.base.exact else float(self.base.index.k_factor)

    def widen(self, most: int) -> bool:
        """Doubles the width for all who use this base; False if it cannot be more."""
        if self.base is None or self.base.exact or 2 * self.width > most:
            return False
        self.base.index.k_factor *= 2
        return True

    @property
    def exact(self) -> bool:
        return self.base is None or self.base.exact


def positions_of(wanted: Ids, ids: Ids) -> Ids:
    """Where those of `wanted` that are among `ids` stand; both are rising."""
    import numpy as np

    places = np.searchsorted(ids, wanted)
    places = places[places < len(ids)] if len(ids) else places[:0]
    found: Ids = places[ids[places] == wanted[: len(places)]]
    return found


def _are_among(ids: Ids, allowed: Ids) -> NDArray[np.bool_]:
    """Of each of `ids` whether it is among `allowed`; both are rising."""
    import numpy as np

    if len(allowed) * _MANY > len(ids):
        inside: NDArray[np.bool_] = np.isin(ids, allowed, assume_unique=True)
        return inside
    inside = np.zeros(len(ids), bool)
    inside[positions_of(allowed, ids)] = True
    return inside


def search_index(
    base: Base, vectors: Matrix, limit: int, keep: NDArray[np.bool_] | None
) -> tuple[Matrix, Ids]:
    """Scores and positions of each row's nearest, -1 where fewer than `limit` were found."""
    import faiss

    # For this thread: two that share a question wait for each other as soon as a core is taken.
    faiss.omp_set_num_threads(1)
    limit = min(limit, len(base.ids))
    if base.exact:
        return scan(base.index, vectors, limit, keep)
    return search_codes(base.index, vectors, limit, keep)


class Vectors(Protocol):
    """Those a base is built of, more than need fit into memory."""

    def __len__(self) -> int: ...

    def sample(self, count: int, generator: np.random.Generator) -> Matrix:
        """Up to `count` of them, none twice."""
        ...

    def blocks(self) -> Iterator[tuple[Ids, Matrix]]:
        """All of them with their ids, which rise."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """`Vectors` in memory."""

    ids: Ids
    vectors: Matrix

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, count: int, generator: np.random.Generator) -> Matrix:
        chosen = generator.choice(len(self.ids), min(len(self.ids), count), replace=False)
        sampled: Matrix = self.vectors[chosen]
        return sampled

    def blocks(self) -> Iterator[tuple[Ids, Matrix]]:
        yield self.ids, self.vectors


def build_base(ids: Ids, vectors: Matrix, generation: int) -> Base:
    return build_base_of(Held(ids, vectors), vectors.shape[1], generation)


def build_base_of(vectors: Vectors, dimension: int, generation: int) -> Base:
    """Exact up to EXACT_LIMIT vectors, else all of them by short codes and the best by longer ones.

    How many are looked at again is chosen by recall@10 against exact search, measured on a sample
    of the vectors themselves (see codes.py). Inverted lists and graphs lose here: questions lie
    outside the cloud of the passages, so that half the lists must be read.
    """
    import faiss
    import numpy as np

    if len(vectors) <= EXACT_LIMIT:
        flat = faiss.IndexFlatIP(dimension)
        mapped, ids = _filled(flat, vectors, None)
        return Base(mapped, flat, ids, generation, exact=True)
    # One thread: the other cores are for questions, and two that share one wait for each other.
    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(1)
    index = new_codes(dimension, vectors.sample(_TRAINING, generator))
    nearest = Nearest(beside(vectors.sample(_QUESTIONS, generator), generator), 10)
    mapped, ids = _filled(index, vectors, nearest)
    choose_width(index, nearest.questions, [positions_of(i, ids) for i in nearest.ids()])
    return Base(mapped, index, ids, generation, exact=False)


def _filled(index: Any, vectors: Vectors, nearest: Nearest | None) -> tuple[Any, Ids]:
    """The index with all vectors under their ids, and the ids in the order of its positions."""
    import faiss
    import numpy as np

    mapped = faiss.IndexIDMap(index)
    parts = [np.empty(0, np.int64)]
    for ids, block in vectors.blocks():
        mapped.add_with_ids(block, ids)
        parts.append(ids)
        if nearest is not None:
            nearest.see(ids, block)
    return mapped, np.concatenate(parts)


def save_base(base: Base, folder: Path, identity: str) -> None:
    """Writes `vectors.<generation>.faiss`, sealed for the database of this identity, and deletes
    older ones. Raises OSError, with what was there before still there. Writers hold a lock."""
    show_base(write_base(base, folder, identity), folder, base.generation)


def write_base(base: Base, folder: Path, identity: str) -> Path:
    """The file under another name, on the disk. Raises OSError, with nothing left."""
    import faiss

    temporary = folder / f"vectors.{base.generation}.tmp"
    try:
        with temporary.open("wb") as file:
            sealing = Sealing(file)
            callback: Any = vars(faiss)["PyCallbackIOWriter"]
            faiss.write_index(base.mapped, callback(sealing.write))
            sealing.seal({"identity": identity, "generation": base.generation})
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def show_base(temporary: Path, folder: Path, generation: int) -> None:
    """Gives the file its name, and deletes older ones."""
    replace_durably(temporary, temporary.with_suffix(".faiss"))
    for path, held in base_files(folder):
        if held < generation:
            path.unlink(missing_ok=True)
    for path in folder.glob("vectors.*.tmp"):  # of one that was killed
        path.unlink(missing_ok=True)


def load_base(path: Path, generation: int, dimension: int, identity: str) -> Base | None:
    """None if the file is not what was written for this database: it is only a cache."""
    import faiss
    import numpy as np

    seal = read_seal(path)
    if seal is None or (seal.get("identity"), seal.get("generation")) != (identity, generation):
        return None
    try:
        mapped: Any = faiss.read_index(str(path))
        index = faiss.downcast_index(mapped.index)
        ids = faiss.vector_to_array(mapped.id_map).astype(np.int64, copy=False)
    except (RuntimeError, AttributeError, MemoryError):
        return None
    exact = isinstance(index, faiss.IndexFlat)
    known = exact or isinstance(index, faiss.IndexRefine)
    if not known or index.d != dimension or index.ntotal != len(ids):
        return None
    return Base(mapped, index, ids, generation, exact=exact)


def base_files(folder: Path) -> list[tuple[Path, int]]:
    """Newest first."""
    found = [(p, _FILE.search(p.name)) for p in folder.glob("vectors.*.faiss")]
    return sorted(((p, int(m[1])) for p, m in found if m), key=lambda f: -f[1])


def gather(rows: Iterable[tuple[int, bytes]], dimension: int) -> tuple[Ids, Matrix]:
    """Database rows to arrays."""
    import numpy as np

    ids: list[int] = []
    blobs: list[bytes] = []
    for chunk_id, blob in rows:
        ids.append(chunk_id)
        blobs.append(blob)
    matrix = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, dimension)
    return np.array(ids, np.int64), matrix.astype(np.float32, copy=False)


def as_ids(values: Sequence[int]) -> Ids:
    import numpy as np

    return np.array(values, np.int64)
