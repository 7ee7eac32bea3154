"""The command line's front: names, help and errors. `rag.commands` is loaded for the command that
is called, so that help and completion come at once."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rag import __version__
from rag.errors import RagError

_HELP = """Questions to your documents, answered with citations.

\b
Examples:
  rag ingest ./knowledge            read a folder into the knowledge base
  rag ask "How many days of annual leave do I have?"
  rag chat                          a conversation
  rag serve                         the web page and the REST API

A chat model is set by OPENAI_API_KEY, OPENAI_BASE_URL and RAG_MODEL; without one, answers are
quoted passages.
"""

COMMANDS = {
    "ingest": "Bring the knowledge base to what the files say now.",
    "ask": "Answer one question, with citations.",
    "chat": "A conversation.",
    "complete": "Write what belongs at the cursor of a partial file.",
    "batch": "Answer a file of questions.",
    "docs": "Look at and remove documents.",
    "preview": "Show what files become: elements, chunks, offsets.",
    "reindex": "Move a knowledge base to another embedding model.",
    "verify": "Prove that documents, chunks, vectors and indexes agree, or name what does not.",
    "repair": "Mend a knowledge base, embedding nothing that is still known.",
    "backup": "Write a knowledge base to one file, while it is in use.",
    "restore": "Put a backup in place, if every byte of it is as it was.",
    "rollback": "Bring back an earlier generation, without embedding anything.",
    "gc": "Delete earlier generations for good, and give their space back.",
    "drop": "Delete a knowledge base for good.",
    "export": "Write documents, chunks and vectors to a new folder of Parquet files.",
    "import": "Read documents, chunks and vectors from files; nothing is embedded.",
    "migrate": "Move a knowledge base to Milvus, or back, vectors included.",
    "models": "Chat models: list them, check them.",
    "costs": "What the models have cost, and how far the budgets are used, in US dollars.",
    "reviews": "Answers that wait for approval.",
    "eval": "Measure retrieval and answers.",
    "serve": "Serve the web page and the REST API.",
    "status": "Knowledge bases, their size, generation and embedding model.",
    "doctor": "Check the installation and the settings.",
}
_FAILED = 1
_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Lists the table above; whichever is called comes from `rag.commands`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_commands().get(name or ""), rest


def load_commands() -> dict[str, Any]:
    """The commands themselves, by name."""
    group: Any = typer.main.get_command(import_module("rag.commands").app)
    commands: dict[str, Any] = group.commands
    return commands


app = typer.Typer(
    name="rag",
    cls=_Commands,
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"rag {__version__}")
        raise typer.Exit


def _listed() -> None:
    """Stands in the table; never called."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_listed)


def main() -> None:
    """Runs the command line; errors are two lines on standard error, never a traceback."""
    try:
        app(standalone_mode=True)
    except RagError as error:
        if "--json" in sys.argv:
            report = {
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "retryable": error.retryable,
            }
            print(json.dumps({"error": report}, ensure_ascii=False))
        _say(f"Error: {error.message}")
        if error.hint:
            _say(f"  {error.hint}")
        sys.exit(_FAILED)
    except KeyboardInterrupt:
        _say("Interrupted.")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # a bug: one line for the person, the rest for who mends it
        if os.environ.get("RAG_DEBUG"):
            raise
        _say(f"Error: this should not have happened ({type(error).__name__}: {error}).")
        _say("  Please report it with what RAG_DEBUG=1 prints.")
        sys.exit(_FAILED)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
