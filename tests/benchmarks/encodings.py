"""How often the encoding of short texts is detected, on the strings of translated programs.

``python -m tests.benchmarks.encodings FOLDER [--half even|odd] [--lines 1,4,20] [--texts N] [--wrong N]``

The folder has catalogs of gettext, ``.../LANGUAGE/LC_MESSAGES/NAME.mo``, as in ``/usr/share/locale`` or an unpacked
Debian package. Each text is encoded as the people of its language used to, and read by ``guess``: it is right, it is
refused because the answer is not certain, or it is wrong. What was tuned on one half is reported on the other.
"""

from __future__ import annotations

import argparse
import gettext
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from ragstore.sources.encodings import guess

ENCODINGS = {
    "cp1252": "de fr es it pt nl sv da nb fi ca gl eu ga id ms af",
    "cp1250": "pl cs sk hu sl hr ro",
    "iso8859-2": "pl cs sk hu sl",
    "cp1251": "ru uk bg be sr",
    "koi8-r": "ru",
    "cp866": "ru",
    "cp1253": "el",
    "cp1254": "tr",
    "cp1257": "lt lv et",
    "cp1258": "vi",
    "cp1255": "he",
    "cp1256": "ar",
    "cp850": "de fr es it",
    "mac-roman": "de fr es it",
    "cp932": "ja",
    "euc_jp": "ja",
    "gb18030": "zh_CN",
    "big5": "zh_TW",
    "cp949": "ko",
}


def strings(folder: Path, language: str, half: str) -> list[str]:
    """The translations of one language in one half of all messages, as lines of at least three words."""
    found: set[str] = set()
    for path in sorted(folder.glob(f"**/{language}/LC_MESSAGES/*.mo")):
        try:
            with path.open("rb") as file:
                catalog: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
        except UnicodeDecodeError:  # its first string, which the module reads before it knows the encoding
            continue
        for message, translation in catalog.items():
            text = " ".join(translation.split())
            is_odd = crc32(str(message).encode()) % 2 == 1
            if message and is_odd == (half == "odd") and text.count(" ") >= 2 and "Project-Id" not in text:
                found.add(text)
    return sorted(found)


def texts(lines: list[str], n_lines: int, n: int, encoding: str) -> Iterator[bytes]:
    """At most ``n`` texts of so many lines that are not ASCII and that the encoding knows."""
    rng = random.Random(n_lines)
    known = [line for line in lines if _encoded(line, encoding)]
    if len(known) < n_lines:
        return
    for _ in range(n):
        data = _encoded("\n".join(rng.sample(known, n_lines)), encoding)
        if data and not data.isascii():
            yield data


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", choices=["even", "odd"], default="odd")
    parser.add_argument("--lines", default="1,4,20")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers")
    chosen = parser.parse_args()
    shown = 0
    print(f"{'lines':>5} {'encoding':10} {'texts':>6} {'right':>6} {'refused':>8} {'wrong':>6}")
    for n_lines in map(int, chosen.lines.split(",")):
        total: Counter[str] = Counter()
        for encoding, languages in ENCODINGS.items():
            counts: Counter[str] = Counter()
            for language in languages.split():
                for data in texts(strings(chosen.folder, language, chosen.half), n_lines, chosen.texts, encoding):
                    result = outcome(data, encoding)
                    counts[result] += 1
                    if result == "wrong" and shown < chosen.wrong:
                        shown += 1
                        print(f"      {language} {encoding}: {guess(data)} {data.decode(encoding)[:100]!r}")
            total += counts
            show(n_lines, encoding, counts)
        show(n_lines, "all", total)


def outcome(data: bytes, encoding: str) -> str:
    found = guess(data)
    if found is None or not found.is_certain:
        return "refused"
    return "right" if data.decode(found.encoding) == data.decode(encoding) else "wrong"


def show(n_lines: int, encoding: str, counts: Counter[str]) -> None:
    n = counts.total()
    if n:
        shares = (f"{counts[each] / n:.3f}" for each in ("right", "refused", "wrong"))
        print(f"{n_lines:5} {encoding:10} {n:6} {'{:>6} {:>8} {:>6}'.format(*shares)}", flush=True)


if __name__ == "__main__":
    main()
