"""The application database: one place for sessions, costs and reviews, in SQLite or PostgreSQL.

Each part that keeps something there declares tables of its own, and gets a `Part` to reach them:

    turns = database.part(declare)          # costs nothing: no file, no connection, no import
    with turns.writing() as connection:     # the tables are there from now on
        connection.execute(turns.tables.insert().values(...))
"""

from __future__ import annotations

from rag.application.database import ApplicationDatabase, Part

__all__ = ["ApplicationDatabase", "Part"]
