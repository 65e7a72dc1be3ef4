"""Errors for wrong values and unknown names of options.

They say the option, its value, what is allowed, and where the value was found.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from ragstore.errors import SettingsError
from ragstore.settings.places import MASK, PREFIX, Place, masked_url

Fields = Mapping[str, FieldInfo]

_NOT_OPTIONS = re.compile(
    r"FAILPOINT|TEST_.*|CONFIG|SECRETS_DIR"
    # Kubernetes sets these in every pod for a service that is called ragstore or ragstore-something.
    r"|(.+_)?SERVICE_HOST|(.+_)?SERVICE_PORT(_.+)?|(.+_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
_URL_OPTIONS = ("postgres_url", "mongo_url")


def refuse_unknown_names(places: Iterable[Place], fields: Fields) -> None:
    """Raise SettingsError for the first name that is not an option; it suggests the most similar option."""
    for place in places:
        for name in place.names:
            if name in fields or _is_no_option(name, place):
                continue
            nearest = difflib.get_close_matches(name, list(fields), n=1, cutoff=0.6)
            if place.origin == "secret file" and not difflib.get_close_matches(name, list(fields), n=1, cutoff=0.8):
                continue  # a secret of another program with a name that happens to begin with our prefix
            raise _unknown(place, name, nearest[0] if nearest else None)


def refuse_values(error: ValidationError, places: Sequence[Place], fields: Fields) -> SettingsError:
    """Translate pydantic's error: the first wrong value in full, the others by name."""
    problems = [_problem(detail, places, fields) for detail in error.errors(include_url=False)]
    first = problems[0]
    others = [str(problem["option"]) for problem in problems[1:]]
    hint = f"{first['advice']}; looked at: {first['looked_at']}"
    if others:
        hint += f"; wrong as well: {', '.join(others)}"
    return SettingsError(
        first["message"],
        hint=hint,
        option=first["option"],
        value=first["value"],
        allowed=first["allowed"],
        places=first["looked_at"],
        others=others,
    )


def allowed_values(field: FieldInfo) -> str:
    """Allowed values of an option, e.g. ``a whole number from 1 to 1000``."""
    kind = value_type(field)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(kind))
    if kind is bool:
        return "true or false"
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if kind in (int, float):
        low, high = limits["Ge"].ge, limits["Le"].le
        return f"a {'whole ' if kind is int else ''}number from {low} to {high}"
    patterns = [limit.pattern for limit in field.metadata if getattr(limit, "pattern", None)]
    return f"text that matches {patterns[0]}" if patterns else "text"


def value_type(field: FieldInfo) -> Any:
    """The type behind ``| None`` and ``Annotated``."""
    kind = field.annotation
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    if type(None) in get_args(kind):
        kind = choices[0]
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def shown(value: Any, field: FieldInfo | None) -> str:
    """A value as it may be shown: secrets are masked, also passwords in URLs."""
    if isinstance(value, SecretStr):
        return shown(value.get_secret_value(), field)
    text = str(value)
    if field is not None and value_type(field) is SecretStr:
        covered = masked_url(text)
        return covered if "://" in text and _well_formed(text) else MASK
    return masked_url(text)


def _well_formed(url: str) -> bool:
    """Whether a secret is certainly a URL, so that it may be shown with only its password masked."""
    return re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", url) is not None


def _problem(detail: Mapping[str, Any], places: Sequence[Place], fields: Fields) -> dict[str, Any]:
    if not detail["loc"]:
        return _half_configured(detail, places, fields)
    option = str(detail["loc"][0])
    if option not in fields:
        raise _unknown(Place("call", "the call"), option, next(iter(difflib.get_close_matches(option, fields)), None))
    field = fields[option]
    reason = detail.get("ctx", {}).get("error")
    allowed = str(reason) if reason else f"must be {allowed_values(field)}"
    place = next((place for place in places if option in place.values), None)
    raw = place.values[option] if place else field.default
    value, source = shown(raw, field), f"from {place.where}" if place else "the default"
    return {
        "option": _variable(option),
        "value": value,
        "allowed": allowed,
        "message": f"{_variable(option)} is {value!r} ({source}), and it {allowed}",
        "advice": f"correct {place.names[option] if place else _variable(option)}",
        "looked_at": _looked_at(option, places, field),
    }


def _half_configured(detail: Mapping[str, Any], places: Sequence[Place], fields: Fields) -> dict[str, Any]:
    missing = next(name for name in _URL_OPTIONS if not _winning_value(name, places))
    return {
        "option": _variable(missing),
        "value": None,
        "allowed": "both or neither",
        "message": f"{detail['ctx']['error']}: {_variable(missing)} is not set",
        "advice": f"set both {_variable('postgres_url')} and {_variable('mongo_url')}, or neither for embedded servers",
        "looked_at": _looked_at(missing, places, fields[missing]),
    }


def _winning_value(option: str, places: Sequence[Place]) -> Any:
    return next((place.values[option] for place in places if option in place.values), None)


def _looked_at(option: str, places: Sequence[Place], field: FieldInfo) -> str:
    """Every searched place in order of precedence, with its value of this option."""
    found = [
        f"{place.where}: {_value_at(option, place, field)}"
        for place in places
        if place.origin != "call" or option in place.values
    ]
    default = "none" if field.default is None else repr(field.default)
    return ", ".join([*found, f"default: {default}"])


def _value_at(option: str, place: Place, field: FieldInfo) -> str:
    if option in place.values:
        return repr(shown(place.values[option], field))
    return place.note or "nothing"


def _is_no_option(name: str, place: Place) -> bool:
    if place.origin not in ("environment", ".env"):
        return False
    if _NOT_OPTIONS.fullmatch(name.upper()):
        return True
    return name.endswith("port") and _SERVICE_ADDRESS.fullmatch(str(place.values[name])) is not None


def _unknown(place: Place, name: str, nearest: str | None) -> SettingsError:
    spelled = place.names.get(name, name)
    bare = place.origin in ("call", "ragstore.toml")
    advice = (
        f"did you mean {nearest if bare else _variable(nearest)}?"
        if nearest
        else "`ragstore status --settings` lists all options"
    )
    return SettingsError(
        f"there is no option {spelled} ({place.where})", hint=advice, option=spelled, nearest=nearest, place=place.where
    )


def _variable(option: str) -> str:
    return PREFIX + option.upper()
