"""What the commands of the command line do."""

from __future__ import annotations

import typer

from rag.commands import asking, documents, gateway, keeping, moving, running

app = typer.Typer(rich_markup_mode=None)
for part in (documents, asking, gateway, keeping, moving, running):
    app.add_typer(part.app)
