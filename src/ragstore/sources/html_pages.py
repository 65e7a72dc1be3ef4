"""Reader of HTML: the bytes as a browser decodes them, and the visible content of a page as Markdown.

Everything that a person can read on the page is kept, header, footer and asides too, each on lines of its own; left out
are navigation (``<nav>``), choices of forms, and what is hidden. A page that has nothing else keeps its navigation.
"""

from __future__ import annotations

import re

import webencodings

from ragstore.sources.encodings import decodes, other_than_western
from ragstore.sources.html_blocks import Page, markdown_of
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText, real_title

_HEAD_BYTES = 1024 * 1024
_NO_META = re.compile(rb"<!--.*?-->|<(script|style|title|textarea)\b.*?</\1", re.IGNORECASE | re.DOTALL)
_META = re.compile(rb"<meta[\s/][^>]*>", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"'/>;]{1,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"\A\s*<\?xml\s[^>]*?\bencoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_TAG = re.compile(rb"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.IGNORECASE | re.DOTALL)
_MAX_DAMAGE = 0.02

# What each label of the web means, as codecs of Python; a second one knows characters that the first lacks.
_CODECS = {
    "shift_jis": ("cp932", "shift_jis_2004"),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "iso-2022-jp": ("iso2022_jp", "iso2022_jp_ext"),
    "euc-kr": ("cp949",),
    "gbk": ("gb18030",),
    "big5": ("big5hkscs", "cp950"),
    "utf-16le": ("utf-8",),
    "utf-16be": ("utf-8",),
    "x-user-defined": ("cp1252",),
    "iso-8859-8-i": ("iso8859-8",),
    "x-mac-cyrillic": ("mac-cyrillic",),
    "macintosh": ("mac-roman",),
    "windows-874": ("cp874",),
}

# In XHTML, an element can end in its own tag; HTML would take all that follows for its content.
_SELF_CLOSED = re.compile(
    r"<(a|b|div|em|i|iframe|li|noscript|p|script|span|style|strong|td|textarea|th|title|ul|ol|tr|object|canvas)(\s[^<>]*)?/>",
    re.IGNORECASE,
)


def read_html(data: bytes, choices: Choices) -> RawText:
    """A page without scripts, styles and navigation; its title is metadata, and the text if there is no other.

    Raises:
        ParseError: its encoding is not certain.
        UnsupportedTypeError: it is not text.
    """
    html, notes = decode_html(data, choices)
    return page_text(html, notes)


def html_to_markdown(html: str) -> tuple[str, str]:
    """Markdown of an HTML text, and its title, or an empty string without one."""
    page = markdown_of(html)
    return page.markdown, page.title


def decode_html(data: bytes, choices: Choices, declared: str = "") -> tuple[str, dict[str, int | str]]:
    """Text of a page's bytes, by the encoding that browsers would use, if the bytes do not contradict it.

    Args:
        declared: encoding that came with the page, as in a header of MIME; it counts before that of the page itself.
    """
    marked = data.startswith(_MARKS)
    label = "" if marked else declared or _declared(data)
    encoding = webencodings.lookup(label) if label else None
    if encoding:
        # Text in one of the old encodings is not valid UTF-8 by chance.
        if encoding.name != "utf-8" and not data.isascii() and decodes(data, "utf-8"):
            return data.decode("utf-8"), {"decoded_as": "utf-8"}
        if encoding.name == "windows-1252" and (other := other_than_western(data, _TAG.sub(b" ", data))):
            return data.decode(other), {"decoded_as": other}
        names = _CODECS.get(encoding.name, (encoding.name,))
        for name in names:
            if decodes(data, name):
                return data.decode(name), {}
        text = data.decode(names[0], "replace")
        n_lost = text.count("\ufffd")
        if "\0" not in text and n_lost <= _MAX_DAMAGE * sum(byte > 127 for byte in data):
            return text, {"replaced_chars": n_lost}
    return decode(data, choices, telling=_TAG.sub(b" ", data))


def page_text(html: str, notes: dict[str, int | str]) -> RawText:
    if html.lstrip("\ufeff \t\r\n").startswith("<?xml"):
        html = _SELF_CLOSED.sub(r"<\1\2></\1>", html)
    page = markdown_of(html)
    if not page.markdown:
        page = markdown_of(html, with_navigation=True)
    title = real_title(page.title)
    notes = {**notes, **_notes(page)}
    markdown = page.markdown
    if not markdown and title:
        notes["only_a_title"] = 1
        markdown = title
    return RawText([markdown], "markdown", metadata={"title": title}, notes=notes)


def _notes(page: Page) -> dict[str, int | str]:
    counts = {"hidden_words": page.n_hidden_words, "images_left_out": page.n_inline_images}
    return {name: n for name, n in counts.items() if n}


def _declared(data: bytes) -> str:
    head = data[:_HEAD_BYTES]
    for meta in _META.finditer(_NO_META.sub(b" ", head)):
        if found := _CHARSET.search(meta[0]):
            return found[1].decode("ascii", "replace")
    found = _XML_ENCODING.search(head)
    return found[1].decode("ascii") if found else ""
