"""`rag.origins.bucket` with the real s3fs, against a small S3 of our own."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from rag.errors import LoadError
from rag.origins import plan_of

pytestmark = [pytest.mark.slow, pytest.mark.s3]
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class S3:
    objects: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)

    def listing(self, prefix: str) -> bytes:
        keys = [key for key in sorted(self.objects) if key.startswith(prefix)]
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{self.etag(key)}</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys
        )
        return (
            f"<ListBucketResult xmlns='{_XMLNS}'><Name>bucket</Name><Prefix>{prefix}</Prefix>"
            f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>{contents}"
            "</ListBucketResult>"
        ).encode()

    def etag(self, key: str) -> str:
        return hashlib.md5(self.objects[key]).hexdigest()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    state = S3({"docs/a.md": b"# A", "docs/deep/指.md": b"# B", "docs2/c.md": b"# C"})
    state.objects["docs/empty.md"] = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
            if bucket != "bucket" or (key and key not in state.objects):
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            elif not key:
                self.answer(200, state.listing(parse_qs(parts.query).get("prefix", [""])[0]))
            else:
                self.send_object(key)

        def send_object(self, key: str) -> None:
            data = state.objects[key]
            if self.command == "GET":
                state.downloads.append(key)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked is None:
                self.answer(200, data, ETag=state.etag(key))
                return
            part = data[int(asked[1]) : int(asked[2]) + 1]
            said = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}"
            self.answer(206, part, **{"ETag": state.etag(key), "Content-Range": said})

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read(address: str, cache: Path) -> dict[str, bytes]:
    plan = plan_of(address, cache=cache, max_bytes=1000)
    return {source.uri: source.read() for source in plan.sources}  # type: ignore[union-attr]


def test_documents_below_a_prefix_are_downloaded_once(s3: S3, tmp_path: Path) -> None:
    found = {"s3://bucket/docs/a.md": b"# A", "s3://bucket/docs/deep/指.md": b"# B"}
    found["s3://bucket/docs/empty.md"] = b""
    assert read("s3://bucket/docs", tmp_path) == found
    assert s3.downloads == ["docs/a.md", "docs/deep/指.md"]
    s3.objects["docs/a.md"] = b"# Z"
    assert read("s3://bucket/docs", tmp_path)["s3://bucket/docs/a.md"] == b"# Z"
    assert s3.downloads == ["docs/a.md", "docs/deep/指.md", "docs/a.md"]


def test_a_single_object_and_a_bucket_that_is_not_there(s3: S3, tmp_path: Path) -> None:
    assert read("s3://bucket/docs2/c.md", tmp_path) == {"s3://bucket/docs2/c.md": b"# C"}
    with pytest.raises(LoadError, match="is not there"):
        read("s3://elsewhere/docs", tmp_path)
