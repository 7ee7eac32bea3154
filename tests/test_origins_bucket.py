"""The promises of `rag.origins.bucket`, on fsspec's own file systems."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from rag.engine import Engine
from rag.errors import FileTooLargeError, InputError, LoadError
from rag.ingest import Plan
from rag.load import load
from rag.origins.bucket import Bucket, plan_bucket
from rag.origins.kept import Kept
from rag.origins.remote import Limits


@dataclass
class Counting:
    """fsspec's memory file system, with ETags as S3 has them; counts what is downloaded."""

    inner: Any
    downloads: list[str] = field(default_factory=list)
    etags: bool = True

    def find(self, path: str, *, detail: bool) -> Mapping[str, Mapping[str, Any]]:
        found = self.inner.find(f"/{path}", detail=True)
        if not found and not self.inner.exists(f"/{path}"):
            raise FileNotFoundError(path)
        facts = {}
        for name, info in found.items():
            tag = {"ETag": str(hash(self.inner.cat_file(name)))} if self.etags else {}
            facts[name.lstrip("/")] = {"size": info["size"], "type": info["type"], **tag}
        return facts

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        self.downloads.append(path)
        return bytes(self.inner.cat_file(f"/{path}", start=start, end=end))

    def put(self, path: str, data: bytes) -> None:
        self.inner.pipe_file(f"/{path}", data)


@pytest.fixture
def s3() -> Iterator[Counting]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    filesystem = Counting(memory)
    filesystem.put("bucket/docs/a.md", b"# A")
    filesystem.put("bucket/docs/deep/\xe6\x8c\x87.md".encode("latin-1").decode(), b"# B")
    filesystem.put("bucket/docs2/c.md", b"# C")
    filesystem.put("bucket/docs/x.exe", b"MZ")
    filesystem.put("bucket/docs/.hidden.md", b"# H")
    yield filesystem
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def bucket(s3: Counting, tmp_path: Path) -> Bucket:
    return Bucket(kept=Kept(tmp_path / "kept"), max_bytes=1000, loads=load, open_s3=lambda: s3)


def read(plan: Plan) -> dict[str, bytes]:
    return {source.name: source.read() for source in plan.sources}  # type: ignore[union-attr]


@pytest.mark.parametrize("address", ["s3://bucket/docs", "s3://bucket/docs/"])
def test_documents_below_the_prefix_and_no_others(bucket: Bucket, address: str) -> None:
    plan = plan_bucket(address, bucket)
    assert read(plan) == {"bucket/docs/a.md": b"# A", "bucket/docs/deep/指.md": b"# B"}
    assert plan.sources[0].uri == "s3://bucket/docs/a.md"
    assert [f.name for f in plan.skipped] == ["bucket/docs/.hidden.md", "bucket/docs/x.exe"]
    assert plan.covers("s3://bucket/docs/gone.md")
    assert not plan.covers("s3://bucket/docs2/c.md")
    assert not plan.covers("file:bucket/docs/gone.md")


def test_a_whole_bucket_and_a_single_object(bucket: Bucket) -> None:
    assert len(plan_bucket("s3://bucket", bucket).sources) == 3
    assert read(plan_bucket("s3://bucket/docs/a.md", bucket)) == {"bucket/docs/a.md": b"# A"}


def test_what_has_not_changed_is_not_downloaded_again(bucket: Bucket, s3: Counting) -> None:
    first = read(plan_bucket("s3://bucket/docs", bucket))
    s3.downloads.clear()
    assert read(plan_bucket("s3://bucket/docs", bucket)) == first
    assert s3.downloads == []
    s3.put("bucket/docs/a.md", b"# Z")  # of the same size
    assert read(plan_bucket("s3://bucket/docs", bucket))["bucket/docs/a.md"] == b"# Z"
    assert s3.downloads == ["bucket/docs/a.md"]


def test_without_any_mark_of_a_version_it_is_downloaded(bucket: Bucket, s3: Counting) -> None:
    s3.etags = False
    read(plan_bucket("s3://bucket/docs/a.md", bucket))
    read(plan_bucket("s3://bucket/docs/a.md", bucket))
    assert s3.downloads == ["bucket/docs/a.md"] * 2


def test_the_whole_way_and_again_with_what_was_deleted(
    bucket: Bucket, s3: Counting, engine: Engine
) -> None:
    report = engine.ingest_plan(plan_bucket("s3://bucket/docs", bucket))
    assert report.added == ["bucket/docs/a.md", "bucket/docs/deep/指.md"]
    s3.inner.rm("/bucket/docs/a.md")
    again = engine.ingest_plan(plan_bucket("s3://bucket/docs", bucket))
    assert (again.unchanged, again.removed) == (["bucket/docs/deep/指.md"], ["bucket/docs/a.md"])


def test_limits_on_documents_bytes_and_each_object(bucket: Bucket, s3: Counting) -> None:
    cut = plan_bucket("s3://bucket/docs", replace(bucket, limits=Limits(max_documents=1)))
    assert len(cut.sources) == 1
    assert not cut.covers("s3://bucket/docs/gone.md")
    cut = plan_bucket("s3://bucket/docs", replace(bucket, limits=Limits(max_total_bytes=5)))
    assert len(cut.sources) == 1
    assert "1 documents beyond the limits" in cut.notes[0]
    s3.put("bucket/large/a.md", b"x" * 2000)
    with pytest.raises(FileTooLargeError):
        read(plan_bucket("s3://bucket/large", bucket))
    assert s3.downloads == []


def test_an_object_that_grew_since_the_listing_is_refused(bucket: Bucket, s3: Counting) -> None:
    plan = plan_bucket("s3://bucket/docs/a.md", bucket)
    s3.put("bucket/docs/a.md", b"x" * 5000)
    with pytest.raises(FileTooLargeError):
        read(plan)


def test_an_empty_object_is_not_asked_for(bucket: Bucket, s3: Counting) -> None:
    s3.put("bucket/empty/a.md", b"")
    assert read(plan_bucket("s3://bucket/empty", bucket)) == {"bucket/empty/a.md": b""}
    assert s3.downloads == []


def test_a_prefix_without_documents_forgets_nothing(bucket: Bucket, s3: Counting) -> None:
    s3.put("bucket/other/x.exe", b"MZ")
    plan = plan_bucket("s3://bucket/other", bucket)
    assert not plan.covers("s3://bucket/other/a.md")


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "s3://key:secret@bucket/x", "s3://bucket?x", "gs://bucket/x"]
)
def test_what_is_no_address_of_a_bucket_is_refused(bucket: Bucket, address: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_bucket(address, bucket)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError("x"), "is not there"),
        (PermissionError("AKIASECRET"), "may not be read"),
        (RuntimeError("AKIASECRET"), "RuntimeError"),
    ],
)
def test_a_bucket_that_cannot_be_listed_says_why_and_no_secret(
    bucket: Bucket, error: Exception, says: str
) -> None:
    class Closed:
        def find(self, path: str, *, detail: bool) -> Mapping[str, Mapping[str, Any]]:
            raise error

        def cat_file(self, path: str, *, start: int, end: int) -> bytes:
            raise error

    with pytest.raises(LoadError, match=says) as failed:
        plan_bucket("s3://bucket/docs", replace(bucket, open_s3=Closed))
    assert "AKIA" not in str(failed.value)


def test_a_local_file_system_serves_as_well(bucket: Bucket, tmp_path: Path) -> None:
    """fsspec's other file systems fit: marks of a version have other names there."""
    root = tmp_path / "bucket"
    root.mkdir()
    (root / "a.md").write_text("# A")
    filesystem = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    plan = plan_bucket("s3://bucket", replace(bucket, open_s3=lambda: filesystem))
    assert read(plan) == {"bucket/a.md": b"# A"}
    assert bucket.kept.get("s3://bucket/a.md") is not None


def test_without_the_extra_the_error_names_the_install_line(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    module = importlib.import_module("rag.origins.bucket")
    with pytest.raises(LoadError, match=r"pip install .*\[s3\]"):
        plan_bucket("s3://bucket", replace(bucket, open_s3=module.open_s3))
