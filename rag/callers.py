"""Who asks: callers by their keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from pydantic import SecretStr

from rag.errors import CallerError, ConfigError

ANONYMOUS = ""


class Callers:
    """The names of `rag.toml`'s `callers`, each with the key in its environment variable.

    Keys tell callers apart, for budgets, costs and approvals. Who comes without one is nobody in
    particular, and may ask; who comes with a wrong one is turned away.
    """

    def __init__(
        self, variables: Mapping[str, str], find_secret: Callable[[str], SecretStr | None]
    ) -> None:
        """Raises ConfigError for a variable that is not set."""
        self._keys: dict[str, bytes] = {}
        for name, variable in variables.items():
            key = find_secret(variable)
            if key is None:
                raise ConfigError(
                    f"The caller {name!r} has no key.", f"Set {variable}, or remove the caller."
                )
            self._keys[name] = key.get_secret_value().encode()

    def named(self, key: str | None) -> str:
        """The caller with this key; ANONYMOUS without one. Raises CallerError."""
        if key is None:
            return ANONYMOUS
        sent = key.encode()
        found = [name for name, known in self._keys.items() if hmac.compare_digest(known, sent)]
        if not found:
            raise CallerError("This key is not known here.", "Check the key, or send none.")
        return found[0]
