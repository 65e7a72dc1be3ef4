"""Table of all options with their values, as ``ragstore status --settings`` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ragstore.settings.options import Settings
from ragstore.settings.places import PREFIX, Origin
from ragstore.settings.refusal import allowed_values, shown

Plain = str | int | float | None


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One option.

    Args:
        name: the environment variable; in ``ragstore.toml`` the same in lower case without ``RAGSTORE_``.
        value: the value in use, with secrets masked.
        allowed: allowed values, e.g. ``a whole number from 1 to 1000``.
    """

    name: str
    value: Plain
    origin: Origin
    default: Plain
    allowed: str
    help: str

    def as_dict(self) -> dict[str, Any]:
        """One entry of ``settings`` in ``status --settings --json``."""
        return asdict(self)


def describe(settings: Settings, *, show_secrets: bool = False) -> list[SettingRow]:
    """One row for each option, in the order in which they are declared."""
    return [
        SettingRow(
            name=PREFIX + name.upper(),
            value=_plain(getattr(settings, name), field, show_secrets=show_secrets),
            origin=settings.origin(name),
            default=_plain(field.default, field, show_secrets=show_secrets),
            allowed=allowed_values(field),
            help=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _plain(value: Any, field: FieldInfo, *, show_secrets: bool) -> Plain:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, SecretStr) and show_secrets:
        return value.get_secret_value()
    if isinstance(value, Path) or show_secrets:
        return str(value)
    return shown(value, field)
