"""Equations of Office documents (OMML) as one line of text, e.g. ``E=mc^2``."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from ragstore.sources.word_xml import child, kind, value

_SIMPLE = re.compile(r"[^\W_]+|\W|[-−]?\d+(?:[.,]\d+)?|√?\([^()]*\)")
_PROPERTIES = re.compile(r"m:\w+Pr$")


def equation(element: ET.Element) -> str:
    """Text of an ``m:oMath`` or ``m:oMathPara``, with ``^``, ``_``, ``/`` and ``√`` for what is set apart."""
    name = kind(element)
    if name in ("m:t", "w:t"):
        return element.text or ""
    if name == "m:oMathPara":
        return "; ".join(filter(None, (equation(each) for each in element)))
    if _PROPERTIES.match(name):
        return ""
    form = _FORMS.get(name)
    return form(element) if form else "".join(equation(each) for each in element)


def _part(element: ET.Element, name: str) -> str:
    found = child(element, name)
    return "" if found is None else equation(found).strip()


def _group(text: str) -> str:
    return text if _SIMPLE.fullmatch(text) else f"({text})"


def _script(element: ET.Element) -> str:
    sub, sup = _part(element, "m:sub"), _part(element, "m:sup")
    return (f"_{_group(sub)}" if sub else "") + (f"^{_group(sup)}" if sup else "")


def _fraction(element: ET.Element) -> str:
    return f"{_group(_part(element, 'm:num'))}/{_group(_part(element, 'm:den'))}"


def _scripted(element: ET.Element) -> str:
    return _group(_part(element, "m:e")) + _script(element)


def _prescripted(element: ET.Element) -> str:
    return _script(element) + _part(element, "m:e")


def _root(element: ET.Element) -> str:
    degree = _part(element, "m:deg")
    return f"{degree and _group(degree)}√({_part(element, 'm:e')})"


def _operator(element: ET.Element) -> str:
    char = child(element, "m:naryPr", "m:chr")
    sign = "∫" if char is None else value(char, "m:val")
    return f"{sign}{_script(element)} {_part(element, 'm:e')}"


def _delimited(element: ET.Element) -> str:
    marks = [child(element, "m:dPr", name) for name in ("m:begChr", "m:sepChr", "m:endChr")]
    begin, between, end = (
        usual if mark is None else value(mark, "m:val") for mark, usual in zip(marks, "(|)", strict=True)
    )
    return begin + between.join(equation(each).strip() for each in element if kind(each) == "m:e") + end


def _function(element: ET.Element) -> str:
    argument = _part(element, "m:e")
    return _part(element, "m:fName") + (argument if argument.startswith(("(", "[", "{")) else f" {argument}")


def _matrix(element: ET.Element) -> str:
    rows = [", ".join(equation(cell).strip() for cell in row) for row in element if kind(row) == "m:mr"]
    return "[" + "; ".join(rows) + "]"


def _lines(element: ET.Element) -> str:
    return "; ".join(equation(each).strip() for each in element if kind(each) == "m:e")


def _limit(element: ET.Element) -> str:
    mark = "_" if kind(element) == "m:limLow" else "^"
    return f"{_part(element, 'm:e')}{mark}{_group(_part(element, 'm:lim'))}"


def _accent(element: ET.Element) -> str:
    char = child(element, "m:accPr", "m:chr")
    base, accent = _part(element, "m:e"), "\u0302" if char is None else value(char, "m:val")
    return base + accent if len(base) == 1 else f"({base}){accent}"


_FORMS = {
    "m:f": _fraction,
    "m:sSup": _scripted,
    "m:sSub": _scripted,
    "m:sSubSup": _scripted,
    "m:sPre": _prescripted,
    "m:rad": _root,
    "m:nary": _operator,
    "m:d": _delimited,
    "m:func": _function,
    "m:m": _matrix,
    "m:eqArr": _lines,
    "m:limLow": _limit,
    "m:limUpp": _limit,
    "m:acc": _accent,
}
