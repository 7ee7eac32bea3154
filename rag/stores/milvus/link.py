"""The connection to Milvus: a server, or Milvus Lite in a file."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rag.errors import StoreError
from rag.stores.milvus.explain import explained, without_secrets

_NOT_LOADED = 101
_LITE = re.compile(r"[^:]+\.db")
# Milvus Lite is in this process and cannot be out of reach. pymilvus pings it every 10 seconds all
# the same, more often than its server bears; gRPC then tells standard error of "too_many_pings".
NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": False}


class Link:
    """Safe to use from several threads. Nothing is opened before the first use.

    `shown` is what may be told of the address.
    """

    def __init__(self, uri: str, token: str, *, timeout: float) -> None:
        self._uri = uri
        self._token = token
        self._timeout = timeout
        self._opened: Any = None
        self._guard = threading.Lock()
        self.is_lite = _LITE.fullmatch(uri) is not None
        self.shown = uri if self.is_lite else without_secrets(uri)

    @property
    def client(self) -> Any:
        with self._guard:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        try:
            from pymilvus import MilvusClient
        except ModuleNotFoundError:
            raise StoreError(
                "pymilvus, the client for Milvus, is not installed.",
                "pip install 'rag-server[milvus]'",
            ) from None
        # It logs what it raises, with tracebacks; we say it once, in our words.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        options: dict[str, Any] = {}
        if self.is_lite:  # its server in this process has tracebacks of its own
            logging.getLogger("grpc").setLevel(logging.CRITICAL)
            logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
            options = {"grpc_options": NO_PINGS}
        return MilvusClient(uri=self._uri, token=self._token, timeout=self._timeout, **options)

    def asked(self, name: str, ask: Callable[[Any], Any]) -> Any:
        """Of a collection, which Milvus Lite forgets to have loaded when it is opened anew; a
        server may be told to."""
        with self.explained():
            try:
                return ask(self.client)
            except Exception as error:  # pymilvus raises many kinds; all but this one go on up
                if not _is_not_loaded(error):
                    raise
            self.client.load_collection(name, timeout=self._timeout * 10)
            return ask(self.client)

    def explained(self) -> AbstractContextManager[None]:
        """Its errors as ours, without the secrets."""
        return explained(self.shown, (self._uri, self._token), is_lite=self.is_lite)

    def close(self) -> None:
        with self._guard:
            client, self._opened = self._opened, None
        if client is not None:
            client.close()


def _is_not_loaded(error: Exception) -> bool:
    return getattr(error, "code", None) == _NOT_LOADED or "'released'" in str(error)
