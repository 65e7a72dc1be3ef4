"""Structured log lines as text or JSON, and the escaping of invisible characters.

Each line says what was done (``action``), to what, and with which numbers.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_ROOT = "ragstore"
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Control characters, line separators, marks of direction, characters without width, lone surrogates."""
_OF_THE_CALL = frozenset({"exc_info", "stack_info", "stacklevel", "extra"})


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A standard logger that turns unknown keyword arguments into fields of the line.

    ``log.info("run published", action="publish", run_id=run_id, n_nodes=12)``
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Move unknown keyword arguments into ``extra``, which the standard library accepts."""
        fields = {name: value for name, value in kwargs.items() if name not in _OF_THE_CALL}
        standard = {name: value for name, value in kwargs.items() if name in _OF_THE_CALL}
        return msg, standard | {"extra": {**(kwargs.get("extra") or {}), "fields": fields}}


def get_logger(name: str) -> Logger:
    """The logger of a module; pass ``__name__``."""
    return Logger(logging.getLogger(name), {})


def configure_logging(level: str = "warning", log_format: LogFormat = "text") -> None:
    """Send the lines of ragstore to standard error, from ``level`` upwards; safe to call again.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = _StandardErrorHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000+00:00 INFO ragstore.protocol publish: run published n_nodes=12``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line; a traceback follows on separate lines."""
        fields = dict(_fields(record))
        action = fields.pop("action", None)
        message = f"{action}: {record.getMessage()}" if action else record.getMessage()
        words = [_at(record), record.levelname, record.name, message]
        words += [f"{name}={_word(value)}" for name, value in fields.items()]
        # A line break in a path must not look like another line.
        line = visible(" ".join(words)).replace("\n", "\\n")
        return f"{line}\n{visible(self.formatException(record.exc_info))}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``at``, ``level``, ``logger``, ``action``, ``message``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one JSON object, which also contains the traceback."""
        fields = dict(_fields(record))
        line: dict[str, Any] = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "action": fields.pop("action", None),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return visible_json(json.dumps(fields | line, default=str, ensure_ascii=False))


def visible(text: str) -> str:
    """Escape invisible characters but tabs and line ends, so that text can neither control a terminal nor deceive."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_json(text: str) -> str:
    """The same JSON with all invisible characters escaped."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


class _StandardErrorHandler(logging.Handler):
    """Handler that looks up ``sys.stderr`` for each line, because a progress bar replaces it for a time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # standard error is closed; a log line must not stop the work
            self.handleError(record)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() or c in '"=' for c in text) or not text else text
