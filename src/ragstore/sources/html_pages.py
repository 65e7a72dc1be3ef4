"""Reader of HTML: the visible content of a page, as Markdown."""

from __future__ import annotations

import re
from typing import Any

from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter

from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{1,40})", re.IGNORECASE)
_HEAD_BYTES = 4096
_UNSEEN = (
    "script", "style", "noscript", "template", "svg", "nav", "iframe", "object", "canvas",
    "button", "select", "input", "textarea", "title",
)  # fmt: skip
_UNSEEN_ROLES = ("navigation", "search")
_EMPTY_LINES = re.compile(r"\n{3,}")


def read_html(data: bytes, choices: Choices) -> RawText:
    """A page without its scripts, styles and navigation; its title is in the metadata."""
    html, notes = _decode_html(data, choices)
    markdown, title = html_to_markdown(html)
    return RawText([markdown], "markdown", metadata={"title": title}, notes=notes)


def html_to_markdown(html: str) -> tuple[str, str]:
    """Markdown of an HTML text, and its title, or an empty string without one."""
    soup = BeautifulSoup(html, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    # find_all() with a function would take a quarter of the time of all other steps.
    for element in [each for each in soup.descendants if isinstance(each, Tag) and _is_unseen(each)]:
        element.decompose()
    try:
        markdown = _Converter().convert_soup(soup)
    except RecursionError:
        # Thousands of nested tags: keep only their text.
        markdown = soup.get_text("\n", strip=True)
    return _EMPTY_LINES.sub("\n\n", markdown).strip(), title


class _Converter(MarkdownConverter):
    """Converts links and images to their words only: addresses would hide the text around them."""

    def __init__(self) -> None:
        super().__init__(
            heading_style="ATX",
            bullets="-",
            escape_asterisks=False,
            escape_underscores=False,
            escape_misc=False,
        )

    # The library passes these arguments by name.
    def convert_a(self, el: Tag, text: str, parent_tags: Any) -> str:  # noqa: ARG002
        return text

    def convert_img(self, el: Tag, text: str, parent_tags: Any) -> str:  # noqa: ARG002
        return str(el.get("alt") or "")


def _is_unseen(tag: Tag) -> bool:
    return tag.name in _UNSEEN or tag.get("role") in _UNSEEN_ROLES or tag.has_attr("hidden")


def _decode_html(data: bytes, choices: Choices) -> tuple[str, dict[str, int | str]]:
    declared = _CHARSET.search(data[:_HEAD_BYTES])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode(declared[1].decode("ascii")), {}
        except (LookupError, UnicodeDecodeError):
            pass  # a wrong declaration: detect the encoding from the bytes
    return decode(data, choices)
