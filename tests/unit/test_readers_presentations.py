from __future__ import annotations

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking
from ragstore.sources.readers import read
from tests.support.files import SLIDE_NAMES, a_pptx, a_zip, relations, slide_text


def test_slides_have_their_title_as_heading_and_their_number_as_place() -> None:
    text = read(
        a_pptx([slide_text("Goals", kind="title") + slide_text("Grow.", "Save."), slide_text("No title")]), "a.pptx"
    )
    assert text.shape == "markdown"
    assert [(c.text, c.headings, c.place) for c in split(text, Chunking(256, 32))] == [
        ("# Goals\n\nGrow.\nSave.", ("Goals",), {"slide": 1}),
        ("# Slide 2\n\nNo title", ("Slide 2",), {"slide": 2}),
    ]
    assert text.metadata == {"slides": 2}


def test_the_order_is_that_of_the_presentation() -> None:
    order = f'<p:presentation {SLIDE_NAMES}><p:sldIdLst><p:sldId id="2" r:id="rId2"/><p:sldId id="1" r:id="rId1"/></p:sldIdLst></p:presentation>'
    slides = [slide_text("was first"), slide_text("was second")]
    text = read(a_pptx(slides, extra={"ppt/presentation.xml": order}), "a.pptx").text
    assert text.index("was second") < text.index("was first")


def test_tables_groups_notes_and_numbers_of_slides() -> None:
    cell = "<a:tc><a:txBody><a:p><a:r><a:t>{}</a:t></a:r></a:p></a:txBody></a:tc>"
    table = "<p:graphicFrame><a:graphic><a:graphicData><a:tbl>" + "".join(
        "<a:tr>" + "".join(cell.format(word) for word in row) + "</a:tr>" for row in (("Part", "Price"), ("Pump", "9"))
    )
    table += "</a:tbl></a:graphicData></a:graphic></p:graphicFrame>"
    group = f"<p:grpSp><p:grpSp>{slide_text('deep inside')}</p:grpSp></p:grpSp>"
    note = f"<p:notes {SLIDE_NAMES}><p:cSld><p:spTree>{slide_text('Say hello', kind='body')}{slide_text('7', kind='sldNum')}</p:spTree></p:cSld></p:notes>"
    extra: dict[str, bytes | str] = {
        "ppt/slides/_rels/slide1.xml.rels": relations({"rId1": ("notesSlide", "../notesSlides/n1.xml")}),
        "ppt/notesSlides/n1.xml": note,
    }
    text = read(a_pptx([table + group + slide_text("12", kind="sldNum")], extra=extra), "a.pptx").text
    assert text == "# Slide 1\n\n| Part | Price |\n| --- | --- |\n| Pump | 9 |\n\ndeep inside\n\nNotes: Say hello"


def test_diagrams_and_charts_give_their_words() -> None:
    frames = (
        '<p:graphicFrame><a:graphic><a:graphicData><d:relIds xmlns:d="d" r:dm="rId1"/></a:graphicData></a:graphic></p:graphicFrame>'
        '<p:graphicFrame><a:graphic><a:graphicData><c:chart xmlns:c="c" r:id="rId2"/></a:graphicData></a:graphic></p:graphicFrame>'
    )
    chart = (
        f'<c:chartSpace xmlns:c="c" {SLIDE_NAMES}><c:chart><c:title><a:p><a:r><a:t>Sales</a:t></a:r></a:p></c:title><c:ser>'
        "<c:tx><c:v>North</c:v></c:tx><c:cat><c:v>2023</c:v><c:v>2024</c:v></c:cat><c:val><c:v>1.5</c:v></c:val>"
        "</c:ser></c:chart></c:chartSpace>"
    )
    extra: dict[str, bytes | str] = {
        "ppt/slides/_rels/slide1.xml.rels": relations(
            {"rId1": ("diagramData", "../diagrams/data1.xml"), "rId2": ("chart", "../charts/chart1.xml")}
        ),
        "ppt/diagrams/data1.xml": f"<d {SLIDE_NAMES}><a:p><a:r><a:t>Plan</a:t></a:r></a:p><a:p><a:r><a:t>Do</a:t></a:r></a:p></d>",
        "ppt/charts/chart1.xml": chart,
    }
    text = read(a_pptx([frames], extra=extra), "a.pptx").text
    assert text == "# Slide 1\n\nPlan\nDo\n\nChart: Sales\nSeries: North\nCategories: 2023, 2024"


@pytest.mark.parametrize("name", ["a.pptm", "a.potx", "a.txt"])
def test_a_presentation_is_one_under_every_name(name: str) -> None:
    assert read(a_pptx([slide_text("Words")]), name).places == [{"slide": 1}]


def test_a_bomb_and_entities_are_refused() -> None:
    with pytest.raises(LimitExceededError, match="would unpack to"):
        read(a_pptx([slide_text("x")], extra={"ppt/media/a": b"0" * 40_000_000}), "a.pptx")
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    bomb = f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]><p:sld {SLIDE_NAMES}>&e9;</p:sld>'
    with pytest.raises(ParseError, match="is a damaged presentation"):
        read(a_pptx([""], extra={"ppt/slides/slide1.xml": bomb}), "a.pptx")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_presentation_is_damaged(keep: float) -> None:
    whole = a_pptx([slide_text("Some words. " * 50)])
    with pytest.raises(ParseError, match="is a damaged presentation"):
        read(whole[: int(len(whole) * keep)], "a.pptx")


def test_a_presentation_without_slides_has_no_text() -> None:
    with pytest.raises(ParseError, match="has no text"):
        read(a_pptx([]), "a.pptx")
    with pytest.raises(ParseError, match="is a damaged presentation"):
        read(a_zip({"ppt/presentation.xml": "<p"}), "a.pptx")
