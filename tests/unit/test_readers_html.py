from __future__ import annotations

import pytest

from ragstore.sources.readers import read

PAGE = """<!DOCTYPE html><html><head><title>The &amp; title</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><script>alert(1)</script>
<h1>Guide</h1><p>Call <code>snake_case()</code> or see <a href="https://example.org/very/long">the page</a>.</p>
<h2>Table</h2><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre># no heading
x = 1</pre><img src="data:image/png;base64,AAAA" alt="a chart"><div hidden>unseen</div>
<ul><li>one</li><li>two</li></ul><button>Press</button></body></html>"""


def test_a_page_becomes_markdown_of_what_its_reader_sees() -> None:
    read_text = read(PAGE.encode(), "a.html")
    assert read_text.shape == "markdown"
    assert read_text.metadata == {"title": "The & title"}
    assert read_text.text == (
        "# Guide\n\nCall `snake_case()` or see the page.\n\n## Table\n\n"
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```\n# no heading\nx = 1\n```\n\na chart\n\n- one\n- two"
    )


@pytest.mark.parametrize(
    "data",
    [
        '<html><meta charset="iso-8859-1"><p>Grüße'.encode("latin-1"),
        "<html><p>Grüße".encode(),
        "<html><p>Grüße".encode("utf-16"),
        '<html><meta charset="no-such-charset"><p>Grüße'.encode(),
        '<html><meta charset="ascii"><p>Grüße'.encode(),
        b"<html><p>Gr&uuml;&szlig;e",
    ],
)
def test_the_declared_encoding_counts_only_where_it_fits(data: bytes) -> None:
    assert read(data, "a.html").text == "Grüße"


def test_a_head_that_is_never_closed_does_not_hide_the_page() -> None:
    assert read(b"<!doctype html><html><head><title>T</title><p>Words", "a.html").text == "Words"


def test_tags_nested_thousands_deep_still_give_their_text() -> None:
    html = "<div>" * 20_000 + "deep words" + "</div>" * 20_000
    assert read(html.encode(), "a.html").text == "deep words"
