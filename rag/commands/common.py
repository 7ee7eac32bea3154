"""What the commands share: options, and an engine that is closed at the end."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rag.config import Settings
from rag.engine import Engine

KnowledgeBaseOption = Annotated[str, typer.Option("--kb", help="Name of the knowledge base.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, max=50, help="Passages to use.")]
Model = Annotated[str | None, typer.Option("--model", help="Chat model, or 'extractive'.")]
Preset = Annotated[str | None, typer.Option("--preset", help="How to answer: a preset's name.")]
FilterPath = Annotated[list[str], typer.Option("--path", help="Only documents like 'hr/*'.")]
FilterType = Annotated[list[str], typer.Option("--type", help="Only documents of this type.")]
FilterTag = Annotated[list[str], typer.Option("--tag", help="Only documents with this tag.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Ask anew, whatever is kept.")]
Images = Annotated[list[Path] | None, typer.Option("--image", help="A picture to send.")]

FAILED = 1


@contextmanager
def opened(**overrides: object) -> Iterator[Engine]:
    """The engine of this process's settings."""
    engine = Engine.open(Settings.read(**overrides))
    try:
        yield engine
    finally:
        engine.close()


def caller() -> str:
    """Who works at this terminal, for costs and the audit."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return ""
