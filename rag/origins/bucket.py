"""The objects below a prefix of a bucket as documents, through fsspec."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from rag.errors import InputError, LoadError, RagError
from rag.files import Loads
from rag.ingest import Covers, Failure, Plan
from rag.origins.addresses import shown
from rag.origins.kept import Kept
from rag.origins.remote import Limits, RemoteSource, check_size, is_document, unsupported

T = TypeVar("T")

_ADDRESS = re.compile(r"(?P<scheme>s3)://(?P<bucket>[^/?#@:\s]+)(?:/(?P<prefix>[^\x00-\x1f]*))?")
_VERSION_FACTS = ("ETag", "etag", "LastModified", "mtime", "created", "modified")


class FileSystem(Protocol):
    """What is needed of an fsspec file system. Paths are `bucket/key`."""

    def find(self, path: str, *, detail: bool) -> Mapping[str, Mapping[str, Any]]: ...

    def cat_file(self, path: str, *, start: int, end: int) -> bytes: ...


def open_s3() -> FileSystem:
    """S3 itself, or what AWS_ENDPOINT_URL names. Raises LoadError without the extra `s3`."""
    try:
        s3fs = importlib.import_module("s3fs")
    except ImportError:
        raise LoadError(
            "Reading a bucket needs s3fs, which is not installed.",
            'Install it: pip install "rag-server[s3]"',
        ) from None
    # instances are shared by default and would remember an old listing
    filesystem: FileSystem = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    return filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How buckets are read. Credentials come from the environment, as s3fs finds them."""

    kept: Kept
    max_bytes: int
    loads: Loads
    limits: Limits = field(default_factory=Limits)
    open_s3: Callable[[], FileSystem] = open_s3
    on_notice: Callable[[str], None] = lambda _notice: None


def plan_bucket(address: str, bucket: Bucket) -> Plan:
    """Every document below `s3://bucket/prefix`, or the one object of that key.

    The prefix ends at a `/`: `s3://b/docs` is `docs` and what is below `docs/`, not `docs2`. An
    object whose ETag, size and time are those of the last download is not downloaded again. The
    plan covers all documents below the prefix, unless none is left there or there are more than the
    limit. Raises InputError for a wrong address, LoadError if the bucket cannot be listed.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise InputError(
            f"{shown(address)} is not the address of a bucket.",
            "Write s3://bucket/prefix; keys come from the environment.",
        )
    scheme, root = parts["scheme"], parts["bucket"]
    root = f"{root}/{parts['prefix'].strip('/')}" if parts["prefix"] else root
    root = root.rstrip("/")
    filesystem = bucket.open_s3()
    bucket.on_notice(f"Listing {scheme}://{root}.")
    listed = _asked(lambda: filesystem.find(root, detail=True), f"{scheme}://{root}")
    sources: list[RemoteSource] = []
    skipped: list[Failure] = []
    total = 0
    over = 0
    for path, facts in sorted(
        ((path.lstrip("/"), facts) for path, facts in listed.items()), key=itemgetter(0)
    ):
        if facts.get("type") == "directory" or path.endswith("/") or not _below(path, root):
            continue
        if not is_document(path.removeprefix(root) or path):
            skipped.append(unsupported(path))
            continue
        size = int(facts.get("size") or 0)
        if len(sources) >= bucket.limits.max_documents or (
            total + size > bucket.limits.max_total_bytes
        ):
            over += 1
            continue
        total += size
        uri = f"{scheme}://{path}"
        fetch = _Object(bucket, filesystem, path, uri, facts).read
        last = path.rpartition("/")[2]
        sources.append(RemoteSource(uri, path, last, fetch, bucket.max_bytes, bucket.loads))
    bucket.kept.prune()
    notes = [f"{scheme}://{root} holds {over} documents beyond the limits."] if over else []
    if not sources:
        notes.append(f"{scheme}://{root} holds no documents; what was ingested before is kept.")
    whole = bool(sources) and not over
    start = f"{scheme}://"
    return Plan(
        sources,
        covers=Covers(
            (f"{start}{root}",) if whole else (), lambda uri: _below(uri.removeprefix(start), root)
        ),
        skipped=skipped,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Object:
    bucket: Bucket
    filesystem: FileSystem
    path: str
    uri: str
    facts: Mapping[str, Any]

    def read(self) -> bytes:
        """What is kept if it is of the listed version, else the object itself."""
        size = int(self.facts.get("size") or 0)
        check_size(self.path, size, self.bucket.max_bytes)
        if size == 0:
            return b""  # a range of nothing is an error to S3
        version = {n: str(self.facts[n]) for n in _VERSION_FACTS if self.facts.get(n)}
        item = self.bucket.kept.get(self.uri)
        if item is not None and version and item.facts == {**version, "size": str(size)}:
            return item.data
        most = self.bucket.max_bytes + 1  # it may have grown since
        data = _asked(lambda: self.filesystem.cat_file(self.path, start=0, end=most), self.uri)
        if len(data) == size:
            self.bucket.kept.put(self.uri, {**version, "size": str(size)}, data)
        return data


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _asked(ask: Callable[[], T], what: str) -> T:
    try:
        return ask()
    except RagError:
        raise
    except FileNotFoundError:
        raise LoadError(f"{shown(what)} is not there.", "Check the address.") from None
    except PermissionError:
        raise LoadError(
            f"{shown(what)} may not be read with the keys of the environment.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from None
    except Exception as error:  # noqa: BLE001 - botocore has errors of many trees, each may come
        raise LoadError(
            f"{shown(what)} cannot be read: {type(error).__name__}.",
            "Check the keys of the environment and the network.",
        ) from None
