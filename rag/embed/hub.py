"""Finds the folder of a model: a local path, the hub's cache, or the hub. Never waits long."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal

from rag.errors import EmbedderUnavailableError

Hub = Literal["huggingface", "modelscope"]

_REACH_SECONDS = 5.0
_UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot"]
_HASHED_SUFFIXES = {".json", ".txt", ".model", ".safetensors", ".bin"}
_END = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A folder that holds a model, and the revision of what is in it."""

    folder: Path
    revision: str


def find_model(model: str, hub: Hub) -> Found:
    """The folder of `model`, downloaded if need be.

    Raises EmbedderUnavailableError, after about five seconds when the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Found(folder, _hash_folder(folder))
    if folder.exists():
        raise EmbedderUnavailableError(
            f"{model} is a file, not the folder of a model.", "Name the folder that holds it."
        )
    if _looks_like_path(model):
        raise EmbedderUnavailableError(
            f"There is no folder {model}.", "Correct the path in RAG_EMBEDDING."
        )
    return _from_huggingface(model) if hub == "huggingface" else _from_modelscope(model)


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or "\\" in model or model.count("/") != 1


def _from_huggingface(model: str) -> Found:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    def fetch(**options: Any) -> Path:
        return Path(snapshot_download(model, ignore_patterns=_UNUSED, **options))

    try:
        folder = fetch(local_files_only=True)
        if _has_weights(folder):
            return Found(folder, folder.name)
    except Exception:  # noqa: BLE001, S110 - not cached, or not whole: what the hub is asked for next
        pass
    if HF_HUB_OFFLINE:
        raise _unavailable(model, "is not in the local cache, and HF_HUB_OFFLINE is set")
    if not _reachable(ENDPOINT):
        raise _unavailable(model, f"is not in the local cache, and {ENDPOINT} cannot be reached")
    try:
        folder = fetch(etag_timeout=_REACH_SECONDS)
    except Exception as error:  # the hub's client passes on the errors of several libraries
        raise _unavailable(model, f"cannot be fetched from {ENDPOINT} ({_name(error)})") from error
    return Found(folder, folder.name)


def _from_modelscope(model: str) -> Found:
    if importlib.util.find_spec("modelscope") is None:
        raise EmbedderUnavailableError(
            f"{model} needs modelscope, which is not installed.",
            'pip install "rag-server[modelscope]"',
        )
    from modelscope import snapshot_download

    try:
        folder = Path(snapshot_download(model, local_files_only=True))
        if _has_weights(folder):
            return Found(folder, _hash_folder(folder))
    except Exception:  # noqa: BLE001, S110 - not cached, or not whole: what the hub is asked for next
        pass
    endpoint = f"https://{os.environ.get('MODELSCOPE_DOMAIN', 'www.modelscope.cn')}"
    if not _reachable(endpoint):
        raise _unavailable(model, f"is not in the local cache, and {endpoint} cannot be reached")
    try:
        folder = Path(snapshot_download(model, ignore_file_pattern=_UNUSED))
    except Exception as error:  # as above
        raise _unavailable(model, f"cannot be fetched from {endpoint} ({_name(error)})") from error
    return Found(folder, _hash_folder(folder))


def _reachable(endpoint: str) -> bool:
    """Whether a server answers within five seconds, the look-up of its name included."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    answers: Queue[bool] = Queue()

    def ask() -> None:
        try:
            # The operator names the hub (HF_ENDPOINT, MODELSCOPE_DOMAIN), no document does.
            urlopen(Request(endpoint, method="HEAD"), timeout=_REACH_SECONDS).close()  # noqa: S310
        except HTTPError as refusal:  # it is there, whatever it says
            refusal.close()
            answers.put(True)
        except (OSError, ValueError):
            answers.put(False)
        else:
            answers.put(True)

    threading.Thread(target=ask, daemon=True, name="reach-hub").start()
    try:
        return answers.get(timeout=_REACH_SECONDS)
    except Empty:
        return False


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(
        any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")
    )


def _hash_folder(folder: Path) -> str:
    """Sixteen hex digits that change with the model's files, not with their place or their age.

    Of a file beyond 2 MiB only the size and the first and last MiB count: weights that differ,
    differ there, and a start must not read gigabytes.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _HASHED_SUFFIXES):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            file.seek(0)
            if size <= 2 * _END:
                digest.update(file.read())
            else:
                digest.update(file.read(_END))
                file.seek(-_END, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _unavailable(model: str, what: str) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(
        f"{model} {what}.",
        "Download it where there is a connection and set RAG_EMBEDDING to the path of its folder.",
    )


def _name(error: Exception) -> str:
    return type(error).__name__
