"""Real processes of the command line: an empty home, and a folder of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs

from rag.config import BUNDLED_MODEL
from rag.embed.prepare import FOLDER, is_sound, prepare
from tests.scripted_model import ScriptedModel
from tests.served import KEY, scripted

RAG = Path(sys.executable).with_name("rag")
Finished = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Desk:
    """A working folder and what the environment says there."""

    root: Path
    env: dict[str, str]

    def rag(self, *arguments: str | Path, said: str = "", **env: str) -> Finished:
        return subprocess.run(
            [RAG, *map(str, arguments)],
            cwd=self.root,
            env=self.env | env,
            input=said,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    @contextmanager
    def started(self, *arguments: str | Path, **env: str) -> Iterator[subprocess.Popen[str]]:
        """A process beside the test, which does not outlive it.

        It heeds SIGINT even where a shell runs the tests in the background, which ignores it.
        """
        with subprocess.Popen(
            [RAG, *map(str, arguments)],
            cwd=self.root,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def with_model(self, model: ScriptedModel) -> Desk:
        return replace(self, env=self.env | _as_environment(scripted(model.url)))


def _as_environment(settings: dict[str, str]) -> dict[str, str]:
    return {
        n.upper() if n.startswith("openai") else f"RAG_{n}".upper(): v for n, v in settings.items()
    }


def ready_cache(instead: Path) -> Path:
    """The developer's own cache if the bundled model is ready in it, else `instead` with it."""
    own = platformdirs.user_cache_path("rag")
    if is_sound(own / "models" / FOLDER):
        return own
    prepare(instead)
    return instead


def set_up(root: Path, cache: Path) -> Desk:
    (root / "home").mkdir(parents=True)
    return Desk(
        root,
        {
            "HOME": str(root / "home"),
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "RAG_CACHE_DIR": str(cache),
            "RAG_EMBEDDING": json.dumps([BUNDLED_MODEL]),  # no hub is asked
        },
    )


def done(finished: Finished, code: int = 0) -> Finished:
    """It ended with this code, told no secret, and showed no traceback."""
    shown = finished.stdout + finished.stderr
    assert finished.returncode == code, shown
    assert "Traceback" not in shown
    assert KEY not in shown
    return finished


def parsed(finished: Finished, code: int = 0) -> Any:
    return json.loads(done(finished, code).stdout)
