"""Detection of the encoding of a text that does not declare one, with a measure of whether the answer is certain."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

# The detector tries these; every other one that it knows is of mainframes, or a part of one of these.
_CANDIDATES = (
    "big5hkscs", "cp932", "cp949", "euc_jis_2004", "gb18030", "iso2022_jp_2", "iso2022_kr",
    "cp874", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258",
    "koi8-r", "koi8-u", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15",
    "mac-cyrillic", "mac-roman", "mac-latin2", "mac-greek", "mac-turkish",
    "cp437", "cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp862", "cp866",
)  # fmt: skip
_OLD = frozenset(name for name in _CANDIDATES if name.startswith(("mac", "cp4", "cp7", "cp8")) and name != "cp874")
# The detector's names of supersets, and the name that people know, which is tried first.
_USUAL = {"big5hkscs": "cp950", "euc_jis_2004": "euc_jp", "iso2022_jp_2": "iso2022_jp"}

_NONE = "cp1140"

_SAMPLE_BYTES = 65_536
# Measured on strings of translations in 50 pairs of encoding and language: of texts of 20 lines none was wrong and 7 in
# 100 uncertain, of texts of 4 lines 1 in 700 wrong and 20 in 100 uncertain.
# tests/benchmarks/encodings.py measures it.
_MIN_EVIDENCE = 0.5
_MIN_EVIDENCE_AGAINST_OLD = 0.1
_MAX_ODD = 0.15
# Of fewer bytes, only what Windows-1252 is most often used for is certain.
_FEW_BYTES = 4
_MIN_BYTES_AGAINST_LABEL = 8
_N_COMPARED = 12

_ESCAPED = re.compile(rb"\x1b\$[@AB()]|\x1b\([JI]")
_STRAY = re.compile(r"[\udc80-\udcff]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_WORD = re.compile(r"[^\W\d_]+")
_DRAWN = r"\u2500-\u259f¬√∆≈∞≤≥÷†‡¶¤¨¯¸˛ˇ˘˝ˆ˜ﬁﬂ◊∂∑∏∫"
_ODD_SIGN = re.compile(
    rf"(?<=[^\W\d_])[{_DRAWN}±§©®™¦µ°˙˚ªº²³¹¼½¾ƒⁿ]+(?=[^\W\d_])|[{_DRAWN}]+(?=[^\W\d_])|[\x7f-\x9f\ue000-\uf8ff]"
)
# What speaks against a Western text in Windows-1252: letters and signs that others have in their place, signs inside
# words, capitals after a sign that ends something, and pairs of letters.
_NOT_WESTERN = re.compile(
    r"[^\x00-\x7f\xa0äöüßÄÖÜéèêëàâçñáíóúãõåæøïîôûùòìÀÉÈÊÇÑÁÍÓÚÅØÖœ¿¡«»„“”‘’–—…€°§·]"
    r"|(?<=[^\W\d_])[¿¡«»„“”‘…€°§](?=[^\W\d_])|(?<=[)\]}>%.,;:!?])[À-Þ]|(?<!\S)[ÁÉÍÓÚ](?= ?[A-Z][a-z])"
    r"|ù(?<!\b[oO]ù)(?<!\b[pP]iù)|ì(?<!\b[cC]osì)(?<!\b[sSlL]ì)"
    r"|ã(?![oeç])(?<![hm]ã)|¡(?=[a-z])|([à-öø-þ])(?![çñß]|\1)[à-öø-þ](?<![çñß].)"
)
_SCRIPTS = (
    (0x250, "latin"),
    (0x370, ""),
    (0x400, "greek"),
    (0x530, "cyrillic"),
    (0x590, ""),
    (0x600, "hebrew"),
    (0x700, "arabic"),
    (0xE00, ""),
    (0xE80, "thai"),
    (0x1E00, ""),
    (0x1F00, "latin"),
    (0x2000, "greek"),
)
_WIDE_SAMPLE_BYTES = 16_384
_CONTROL = bytes(c for c in range(32) if c not in b"\t\n\x0b\x0c\r\x1b")
_KANA = re.compile(r"[\u3001-\u30ff]")
_SPACE = re.compile(r"[\t\n\r -~\u3000-\u3002\uff00-\uff20]")
# Characters that texts in UTF-16 are hardly made of.
_UNUSUAL = re.compile(
    r"[^\t\n\x0b\x0c\r\x1b -~\xa0-\u0dff\u0e00-\u0eff\u1e00-\u21ff\u2500-\u25ff\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
    r"\ufe30-\ufe4f\uff00-\uffef\U0001f300-\U0001faff]"
)
_MAX_UNUSUAL = 0.05
_MIN_KANA = 0.2
_MIN_SPACES = 0.005
_PRINTABLE = bytes([*b"\t\n\r", *range(32, 127)])
_MIN_NARROW = 0.8


@dataclass(frozen=True, slots=True)
class Guess:
    """What the bytes of a text seem to be.

    Args:
        encoding: a name that Python knows, the most likely one.
        is_certain: whether no other encoding gives another text that is nearly as plausible.
    """

    encoding: str
    is_certain: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    score: float
    encoding: str
    text: str
    odd: float


def guess(data: bytes, telling: bytes = b"") -> Guess | None:
    """The most likely encoding of a text that is not UTF-8, or None if no encoding fits; the same for the same bytes.

    Args:
        telling: what of ``data`` is words, if the rest is markup in ASCII.
    """
    sample = _sample(telling or data)
    candidates = sorted(_candidates(sample), key=lambda candidate: -candidate.score)
    if not candidates:
        return None
    western = _western(candidates)
    best = western or candidates[0]
    rival = next((each for each in candidates if each.text != best.text), None)
    # cosine similarities: their difference counts for more the more characters there are that could have spoken against
    margin = 1 - rival.score / best.score if rival and best.score else float(best.score > 0)
    n_bytes = sum(byte > 127 for byte in sample)
    evidence = margin * n_bytes
    against_old = rival is not None and rival.encoding in _OLD and best.encoding not in _OLD
    enough = _MIN_EVIDENCE_AGAINST_OLD if against_old else _MIN_EVIDENCE
    same = {each.encoding for each in candidates if each.text == best.text}
    is_told = best.odd <= _MAX_ODD and evidence >= enough and (n_bytes >= _FEW_BYTES or "cp1252" in same)
    certain = is_told or western is not None
    # In bytes outside of the sample, encodings can differ: the first that fits all of them.
    for encoding in sorted(same, key=_CANDIDATES.index):
        for name in (_USUAL.get(encoding, encoding), encoding):
            if decodes(data, name):
                return Guess(name, certain or best.encoding.startswith("iso2022"))
    return None


def other_than_western(data: bytes, telling: bytes = b"") -> str | None:
    """The encoding of a text that is labelled Latin-1 or Windows-1252, if it is certainly another one.

    Programs write these labels without looking. Few characters do not contradict a label, nor do the encodings of
    before Windows, which nobody labels so.

    Args:
        telling: as in ``guess``.
    """
    if sum(byte > 127 for byte in _sample(telling or data)) < _MIN_BYTES_AGAINST_LABEL:
        return None
    found = guess(data, telling)
    if found is None or not found.is_certain or found.encoding in _OLD:
        return None
    is_same = decodes(data, "cp1252") and data.decode("cp1252") == data.decode(found.encoding)
    return None if is_same or found.encoding == "cp1252" else found.encoding


def decodes(data: bytes, encoding: str) -> bool:
    """Whether the bytes are without fault in this encoding."""
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def is_escaped(data: bytes) -> bool:
    """Whether bytes that look like ASCII have the escape sequences of ISO-2022."""
    return _ESCAPED.search(data) is not None


def wide_without_mark(data: bytes) -> str | None:
    """UTF-16 or UTF-32 if the bytes are a text in it without byte order mark."""
    sample = data[:_WIDE_SAMPLE_BYTES]
    if _is_narrow(sample):
        return None
    n_control = len(sample) - len(sample.translate(None, _CONTROL))
    if sample.count(0) * 2 >= len(sample) and len(data) % 4 == 0:
        for encoding in ("utf-32-le", "utf-32-be"):
            # The upper two bytes of each character are nearly always 0: no other bytes are valid by chance.
            if decodes(sample, encoding) and not _UNUSUAL.search(sample.decode(encoding)):
                return encoding
    scores = {name: _wide_score(sample.decode(name, "replace"), n_control) for name in ("utf-16-le", "utf-16-be")}
    best = max(scores, key=lambda name: scores[name])
    return best if len(set(scores.values())) > 1 else None


def _is_narrow(sample: bytes) -> bool:
    """Whether these are ASCII for the most part, perhaps with a few NULs, which halves of wide characters are not."""
    n_printable = len(sample) - len(sample.translate(None, _PRINTABLE))
    return n_printable >= len(sample) * _MIN_NARROW


def stray_bytes_decoded(data: bytes) -> tuple[str, int, int] | None:
    """Text that is UTF-8 except for a few bytes of Windows-1252, the number of these, and the number of lost ones.

    None if it is not mostly UTF-8. An incomplete character at the end is lost, not Windows-1252.
    """
    text = data.decode("utf-8", "surrogateescape")
    n_stray = sum(len(run) for run in _STRAY.findall(text))
    n_good = len(_NOT_ASCII.findall(text)) - n_stray
    if n_good < 2 * n_stray:
        return None
    tail = _STRAY.search(text, max(0, len(text) - 3))
    cut = len(text) - tail.start() if tail and tail.end() == len(text) and ord(tail[0][0]) >= 0xDCC2 else 0
    body, end = (text[:-cut], "\ufffd") if cut else (text, "")
    body = _STRAY.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace"), body)
    n_lost = body.count("\ufffd") - text.count("\ufffd")
    return body + end, n_stray - cut - n_lost, n_lost + len(end)


def _sample(data: bytes) -> bytes:
    """At most 64 KiB: the whole, or lines that are not ASCII, from all of it."""
    if len(data) <= _SAMPLE_BYTES:
        return data
    lines = [line[:1024] for line in data.splitlines() if not line.isascii()]
    step = 1 + sum(map(len, lines)) // _SAMPLE_BYTES
    return b"\n".join(lines[::step]) or data[:_SAMPLE_BYTES]


def _candidates(sample: bytes) -> list[_Candidate]:
    import chardet

    found = chardet.detect_all(
        sample,
        ignore_threshold=True,
        include_encodings=(*_CANDIDATES, _NONE),
        compat_names=False,
        no_match_encoding=_NONE,
        empty_input_encoding="cp1252",
    )
    candidates: list[_Candidate] = []
    for each in found:
        encoding = each["encoding"]
        if len(candidates) < _N_COMPARED and encoding in _CANDIDATES and decodes(sample, encoding):
            text = sample.decode(encoding)
            odd = _oddness(text)
            candidates.append(_Candidate(each["confidence"] * (1 - odd), encoding, text, odd))
    return candidates


def _western(candidates: list[_Candidate]) -> _Candidate | None:
    """The text as Windows-1252, if no other is more plausible and all of its letters are usual in the West.

    It is what most such texts are in, so that it needs no evidence against the others.
    """
    found = next((each for each in candidates if each.encoding == "cp1252"), None)
    is_usual = found and not found.odd and not _NOT_WESTERN.search(found.text)
    return found if found and is_usual and found.score >= candidates[0].score else None


def _oddness(text: str) -> float:
    """Share of words with other than ASCII letters that no language writes: two scripts in one, ``cafÈ``, ``gr÷ß``."""
    words = [word for word in _WORD.findall(text) if not word.isascii()]
    n_signs = len(_ODD_SIGN.findall(text))
    n_odd = sum(map(_is_odd, words)) + n_signs
    return n_odd / (len(words) + n_signs) if n_odd else 0.0


def _is_odd(word: str) -> bool:
    scripts = {_script(char) for char in word}
    if len(scripts) > 1 and scripts != {"latin", ""}:
        return True
    return any(a.islower() and b.isupper() and not (a.isascii() and b.isascii()) for a, b in pairwise(word))


def _script(char: str) -> str:
    return next((name for end, name in _SCRIPTS if ord(char) < end), "")


def _wide_score(text: str, n_control: int) -> float:
    """How much like a text the characters of bytes read as UTF-16 are; 0 if it is none.

    Args:
        n_control: how many of the bytes are control characters.
    """
    n = len(text)
    n_kana = len(_KANA.findall(text))
    # Bytes in other encodings are without control characters; nearly all text in UTF-16 has them as halves.
    if n < 2 or (not n_control and n_kana < n * _MIN_KANA):
        return 0.0
    if len(_UNUSUAL.findall(text)) > n * _MAX_UNUSUAL:
        return 0.0
    spaces = len(_SPACE.findall(text)) / n
    if n * _MIN_SPACES > 1 and spaces < _MIN_SPACES and n_kana < n * _MIN_KANA:
        return 0.0
    n_unknown = sum(unicodedata.category(char) in {"Cn", "Co"} for char in text)
    return 1 + spaces if n_unknown <= n * 0.01 else 0.0
