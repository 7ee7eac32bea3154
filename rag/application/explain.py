"""Errors of a database, as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from rag.errors import BusyError, StoreError

_SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# lock_not_available, query_canceled (both by our limits), deadlock_detected
_POSTGRES_BUSY = {"55P03", "57014", "40P01"}


# What PostgreSQL says where it has no code for it yet: while one connects. Its own words are not
# shown, for they hold what it was called with.
_SAID = {
    "password authentication failed": "it refuses the user or the password",
    "no password supplied": "it wants a password",
    "no pg_hba.conf entry": "it does not let this machine in",
    "does not exist": "there is no such database or user",
    "connection refused": "nothing listens at its address",
    "timeout": "nothing answers at its address",
    "failed to resolve": "its host is not known",
    "could not translate host": "its host is not known",
    "too many clients": "it has no connection left",
    "no space left": "its disk is full",
}


def _said(text: str) -> str | None:
    said = text.lower()
    return next((why for sign, why in _SAID.items() if sign in said), None)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the database as ours, without its address, which may hold a password."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.TimeoutError as error:  # all connections are taken
        raise busy() from error
    except sa.exc.DBAPIError as error:
        cause = error.orig
        if isinstance(cause, sqlite3.Error):
            if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE_BUSY:
                raise busy() from error
            raise broken(str(cause)) from error
        if getattr(cause, "sqlstate", None) in _POSTGRES_BUSY:
            raise busy() from error
        raise broken(_said(str(cause)) or type(cause).__name__) from error
    except sa.exc.SQLAlchemyError as error:
        raise broken(type(error).__name__) from error


def busy() -> BusyError:
    return BusyError("Others block the application database.", "Try again in a moment.")


def broken(why: str | None) -> StoreError:
    return StoreError(
        f"The application database cannot be used ({why or 'no reason given'}).",
        "Check its path or address, its rights, and the room on its disk.",
    )
