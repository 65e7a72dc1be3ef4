"""Prepared statements, which PostgreSQL parses and plans once for each connection.

Parsing and planning a search takes the server about as long as executing it, and the driver does not prepare.

A statement is prepared when a connection sends it for the second time, in the same message that executes it. So there
is no extra round trip, and statements that are sent once are not kept. The plan is the same for all values, and the
server plans again when statistics, indexes or the table change. So the best plan of a statement must not depend on
values.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from ragstore.model.storable import stored_json
from ragstore.postgres.session import Session

MAX_KEPT = 16
"""Statements that a connection keeps, each 300 to 600 kB in the server; beyond that, the least recently used one is
dropped."""

MAX_LOST = 3
"""After the loss of this many prepared statements, a connection prepares no more."""

_LOST = ("26000", "42P05", "0A000")
"""Unknown, known already, or with other columns: another program discards prepared statements."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A SELECT that returns the same columns each time.

    Args:
        settings: ``SET LOCAL …; `` for as long as it is planned and executed.
        text: with ``%(name)s`` for each parameter, and no other ``%``.
        types: the SQL type of each parameter, by name.
    """

    settings: str
    text: str
    types: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Name for PREPARE, a hash of text and types."""
        return "ragstore_" + blake2b(repr((self.text, self.types)).encode(), digest_size=16).hexdigest()

    @property
    def preparing(self) -> str:
        numbers = {name: f"${number}" for number, (name, _) in enumerate(self.types, start=1)}
        text = re.sub(r"%\((\w+)\)s", lambda found: numbers[found[1]], self.text)
        return f"PREPARE {self.name} ({', '.join(sql_type for _, sql_type in self.types)}) AS {text}\n; "

    @property
    def executing(self) -> str:
        """The ``EXECUTE`` statement, with the parameters of ``text``."""
        return f"EXECUTE {self.name} ({', '.join(f'%({name})s' for name, _ in self.types)})"


class PreparingConnection(Session):
    """Connection that prepares repeated statements; not behind a pooler, where it has no session."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._met: OrderedDict[Statement, str | None] = OrderedDict()
        self._n_lost = 0
        psycopg2.extras.register_default_jsonb(self, loads=stored_json)

    def fetch(self, statement: Statement, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows of the answer. Needs autocommit mode, so that an error leaves no failed transaction behind."""
        if self._n_lost < MAX_LOST and not self.is_pooled:
            try:
                return self._fetched(self._message(statement), values)
            except psycopg2.Error as error:
                if error.pgcode not in _LOST:
                    raise
                self._met.pop(statement, None)
                self._n_lost += 1
        return self._fetched(statement.settings + statement.text, values)

    def _message(self, statement: Statement) -> str:
        """The text to send: first the statement itself, then ``PREPARE`` and ``EXECUTE``, after that ``EXECUTE``."""
        if statement not in self._met:
            self._met[statement] = None
            return self._making_room() + statement.settings + statement.text
        self._met.move_to_end(statement)
        executing = self._met[statement]
        if executing is not None:
            return executing
        executing = f"SET LOCAL plan_cache_mode = force_generic_plan; {statement.settings}{statement.executing}"
        self._met[statement] = executing
        return statement.preparing + executing

    def _making_room(self) -> str:
        if len(self._met) <= MAX_KEPT:
            return ""
        oldest, executing = self._met.popitem(last=False)
        return f"DEALLOCATE {oldest.name}; " if executing is not None else ""

    def _fetched(self, message: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self.cursor() as cursor:
            cursor.execute(message, values)
            return cursor.fetchall()
