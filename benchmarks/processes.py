"""Servers in processes of their own: the one that is measured, a scripted model, a bare relay."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

_START_SECONDS = 60


@contextmanager
def scripted(*arguments: str) -> Iterator[str]:
    """A model server, see scripted.py; its base URL."""
    command = [sys.executable, "-m", "benchmarks.scripted", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[str]:
    """`rag serve` with these settings; its address."""
    port = _free_port()
    with _web(_rag("serve", "--port", str(port)), port, environment) as url:
        yield url


@contextmanager
def command_line(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """`rag` with these arguments, at work while the block is."""
    quiet: Any = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    command = _rag(*arguments)
    with subprocess.Popen(command, env={**os.environ, **environment}, **quiet) as process:
        try:
            yield process
        finally:
            process.kill()


def _rag(*arguments: str) -> list[str]:
    code = "import sys; sys.argv[0] = 'rag'; from rag.cli import main; main()"
    return [sys.executable, "-c", code, *arguments]


@contextmanager
def relaying(model_url: str) -> Iterator[str]:
    """The bare relay of relay.py; its address."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.relay", model_url, str(port)]
    with _web(command, port, {}) as url:
        yield url


@contextmanager
def _web(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[str]:
    quiet: Any = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, **environment}, **quiet) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/healthz", process)
            yield url
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    last = time.monotonic() + _START_SECONDS
    while time.monotonic() < last and process.poll() is None:
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("The server did not start.")
