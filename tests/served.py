"""The real server, on a free port of loopback, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from api.app import create_app
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from tests.fakes import FakeEmbedder
from tests.scripted_model import DEADLINE


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """The base URL. The engine is closed with the server, as in production."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(engine=engine)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        assert server.ready.wait(DEADLINE)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        listener.close()
        assert not thread.is_alive()


KEY = "sk-loopback-0123456789"
FILES = {
    "hr/leave.md": "# Annual leave\n\nStaff with ten years of service have 15 days of annual leave."
    "\n\n## Carrying over\n\nUnused days expire on 31 March.\n",
    "hr/年假.md": "# 年假\n\n𠮷野同事🏖️说：工作满十年的员工有十五天年假。\n",
    "it/travel.txt": "A hotel in Shanghai costs at most 650 a night.\n",
}


def sample_folder(root: Path) -> Path:
    """`root`, with FILES in it."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def scripted(url: str) -> dict[str, str]:
    """The settings that make a server at `url` the chat model."""
    return {"model": "scripted", "openai_api_key": KEY, "openai_base_url": url}


def fake_engine(settings: Settings) -> Engine:
    embedder = FakeEmbedder()
    return Engine(settings, choose=lambda *_: Choice(embedder, "a fake, for tests"))
