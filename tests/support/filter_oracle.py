"""What a metadata filter means, in plain Python: the independent judge of the SQL that ragstore makes of it."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from ragstore.model.filters import Condition, Filter

HUGE = 10**4200


def matches(tree: Filter, metadata: dict[str, Any], document_id: str | None = None) -> bool:
    if isinstance(tree, Condition):
        own = _holds(tree.operator, metadata.get(tree.key), tree.value)
        if tree.key not in ("document_id", "doc_id", "ref_doc_id"):
            return own
        # The id counts as a list of one where lists are asked for.
        stored: Any = [document_id] if tree.operator in ("any", "all") and document_id is not None else document_id
        of_document = _holds(tree.operator, stored, tree.value)
        return (own and of_document) if tree.operator in ("!=", "nin", "is_empty") else (own or of_document)
    results = [matches(part, metadata, document_id) for part in tree.parts]
    if not results:
        return True
    return {"and": all(results), "or": any(results), "not": not any(results)}[tree.joiner]


def _holds(operator: str, stored: Any, wanted: Any) -> bool:
    if operator == "is_empty":
        return stored is None or stored == "" or stored == []
    if stored is None:
        return operator in ("!=", "nin")
    if operator in ("==", "!="):
        return _same(stored, wanted) == (operator == "==")
    if operator in ("in", "nin"):
        return any(_same(stored, value) for value in wanted) == (operator == "in")
    if operator == "contains":
        if isinstance(stored, list):
            return any(_same(element, wanted) for element in stored)
        return isinstance(stored, str) and isinstance(wanted, str) and wanted in stored
    if operator in ("any", "all"):
        found = [isinstance(stored, list) and any(_same(element, value) for element in stored) for value in wanted]
        return isinstance(stored, list) and (any(found) if operator == "any" else all(found))
    if operator == "text_match":
        return isinstance(stored, str) and wanted in stored
    if operator == "text_match_insensitive":
        return isinstance(stored, str) and _lower(wanted) in _lower(stored)
    return _ordered(operator, stored, wanted)


def _ordered(operator: str, stored: Any, wanted: Any) -> bool:
    left: Any
    right: Any
    if isinstance(stored, str) and isinstance(wanted, str):
        left, right = stored, wanted
    elif _is_number(stored) and _is_number(wanted) and not (isinstance(wanted, float) and math.isnan(wanted)):
        left, right = _decimal(stored), _decimal(wanted)
    else:
        return False
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])


def _same(stored: Any, wanted: Any) -> bool:
    if _is_number(stored) and _is_number(wanted):
        number = _decimal(wanted)
        return number.is_finite() and _decimal(stored) == number
    return type(stored) is type(wanted) and isinstance(stored, str | bool | None) and stored == wanted


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decimal(value: float) -> Decimal:
    if isinstance(value, int) and abs(value) >= HUGE:
        return Decimal("Infinity") if value > 0 else Decimal("-Infinity")
    return Decimal(json.dumps(value))


def _lower(text: str) -> str:
    """One character for one, as the database does; Python makes two of a dotted capital I and looks at word ends."""
    return "".join(char.lower()[0] for char in text)
