"""Real servers for tests, each on a free port of loopback, ended by its own process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 30.0  # of a start: a hang becomes a failure
_POSTGRES = Path("/usr/lib/postgresql")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a Redis of Debian's `redis-server`, empty, that keeps nothing on disk."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    with _running(command, folder / "redis.log", lambda: _listens(port)):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres_server() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of Debian's `postgresql`."""
    programs = max(_POSTGRES.glob("*/bin"), key=lambda path: int(path.parent.name))
    with tempfile.TemporaryDirectory(prefix="rag-postgres-") as folder:
        port, data = free_port(), Path(folder)
        user: dict[str, object] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(data, "postgres", "postgres")
        initialise = [programs / "initdb", "-D", data, "-U", "rag", "-A", "trust", "-E", "UTF8"]
        initialise += ["--locale=C.UTF-8", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, cwd=data, **user)  # type: ignore[call-overload]
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"]
        command += ["-c", "fsync=off"]
        with _running(command, data / "server.log", lambda: _answers(programs, port), **user):
            yield f"postgresql+psycopg://rag@127.0.0.1:{port}/postgres"


@contextmanager
def _running(
    command: list[str], log: Path, ready: Callable[[], bool], **options: object
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            **options,  # type: ignore[call-overload]
        )
        try:
            until = time.monotonic() + DEADLINE
            while not ready():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.02)  # another program's start has nothing to wait on
            yield
        finally:
            process.send_signal(signal.SIGINT)  # PostgreSQL: without waiting for its clients
            process.wait(DEADLINE)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(programs: Path, port: int) -> bool:
    asked = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    return subprocess.run(asked, check=False).returncode == 0
