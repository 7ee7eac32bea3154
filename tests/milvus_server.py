"""A real Milvus server for tests: PyPI's `milvus==2.3.5`, on ports of its own.

It listens on all interfaces, whatever its files say, so it only starts where there is no other than
loopback: scripts/test sees to that. `python -m tests.milvus_server` fetches it; with a command, it
runs that beside a server, whose address is in RAG_TEST_MILVUS_URI.

The package is put into the user's cache folder once, apart from the project's own packages. The
server's binary is run directly, not through its wrapper, so that its process is ours to kill.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from tests import loopback

PACKAGE = "milvus==2.3.5"
_NOTES = Path("/tmp/milvus")  # where a server of 2.3.5 notes its id, whatever it is told
_BLOCK = 20  # ports
_made = itertools.count()
DEADLINE = 120.0  # of a start: a hang becomes a failure
_PORTS = (
    "etcd_port",
    "root_coord_port",
    "proxy_port",
    "proxy_internal_port",
    "query_coord_port",
    "query_node_port",
    "index_coord_port",
    "index_node_port",
    "data_coord_port",
    "data_node_port",
)
_PARTS = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")

# Run with the package on the path: unpacks the binary, and fills in the server's own template.
_PREPARE = """
import json, sys
from pathlib import Path
import milvus
home, data, options, extra = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
milvus._initialize_data_files(home)
config = milvus.MilvusServerConfig(data_dir=data)
config.resolve_storage()
for key, value in options.items():
    config.set(key, value)
for key, value in json.loads(extra).items():
    config.set(key, value)
config.write_config()
# The embedded etcd reads its ports from a file of its own, else it takes 2379 and 2380.
etcd = Path(data) / "configs" / "etcd.yaml"
client, peer = (f"http://127.0.0.1:{port}" for port in json.loads(sys.argv[5]))
etcd.write_text(json.dumps({
    "name": "default",
    "listen-client-urls": client, "advertise-client-urls": client,
    "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
    "initial-cluster": f"default={peer}",
}))
yaml = Path(data) / "configs" / "milvus.yaml"
before, after = yaml.read_text().split("  use:\\n    embed: true", 1)
yaml.write_text(f"{before}  config:\\n    path: {etcd}\\n  use:\\n    embed: true{after}")
# A killed server's parts are believed alive for this long after it is started again.
text = yaml.read_text()
assert text.count("ttl: 30 ") == 1
yaml.write_text(text.replace("ttl: 30 ", "ttl: 5 "))
"""


def _installed() -> Path:
    """The folder with the package, and `bin` with the unpacked binary."""
    home = user_cache_path("rag-server-tests") / PACKAGE.replace("==", "-")
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "install.lock"):
        package = home / "package"
        if not package.exists():
            partial = home / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--target", str(partial), PACKAGE]
            subprocess.run(command, check=True, capture_output=True)
            partial.rename(package)
    return home


def _ports_of_our_own() -> range:
    """Others than those of all servers and processes of this run, and below those that connections
    are given: a server takes its ports so late that a port found free was often gone."""
    start = 10_000 + _BLOCK * ((os.getpid() * 10 + next(_made)) % 1000)
    return range(start, start + _BLOCK)


class MilvusServer:
    """One server with its data in `folder`. It can be killed and started again on its data."""

    def __init__(self, folder: Path, *, password_needed: bool = False) -> None:
        self._folder = folder
        self._home = _installed()
        self._process: subprocess.Popen[bytes] | None = None
        block = _ports_of_our_own()
        self._metrics, peer, *others = block
        ports: dict[str, object] = dict(zip(_PORTS, others, strict=False))
        self.uri = f"http://127.0.0.1:{ports['proxy_port']}"
        self._prepare({**ports, "authorization_enabled": password_needed}, peer)

    def _prepare(self, options: dict[str, object], peer: int) -> None:
        values = [json.dumps(options), json.dumps({f"{p}.ip": "127.0.0.1" for p in _PARTS})]
        values.append(json.dumps([options["etcd_port"], peer]))
        with FileLock(self._home / "install.lock"):
            subprocess.run(
                [sys.executable, "-c", _PREPARE, str(self._home), str(self._folder), *values],
                check=True,
                env={**os.environ, "PYTHONPATH": str(self._home / "package")},
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when the server says it is healthy. It ends with this process at the latest."""
        assert loopback.is_all_there_is(), "Run the tests of the Milvus server with: scripts/test"
        binary = self._home / "bin" / "milvus"
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", binary, "run", "standalone"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={
                    **os.environ,
                    "DEPLOY_MODE": "STANDALONE",
                    "METRICS_PORT": str(self._metrics),
                    "MILVUS_RUN_DIR": str(self._folder / "run"),
                    "LD_LIBRARY_PATH": str(binary.parent),
                },
            )
        until = time.monotonic() + DEADLINE
        while not self._healthy():
            assert self._process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < until, log.read_text(errors="replace")[-4000:]
            time.sleep(0.1)  # another program's start has nothing to wait on

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._metrics}/healthz", timeout=2
            ) as reply:
                return b"OK" in reply.read()
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """As a power cut would: nothing is flushed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(DEADLINE)
            (_NOTES / f"server_id_{self._process.pid}").unlink(missing_ok=True)
            self._process = None


def _run_beside_server(command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="rag-milvus-") as folder:
        server = MilvusServer(Path(folder))
        try:
            server.start()
            return subprocess.call(command, env={**os.environ, "RAG_TEST_MILVUS_URI": server.uri})
        finally:
            server.kill()


if __name__ == "__main__":
    if not sys.argv[1:]:
        _installed()
    else:
        sys.exit(_run_beside_server(sys.argv[1:]))
