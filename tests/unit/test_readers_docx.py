from __future__ import annotations

import io
import zipfile

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking
from ragstore.sources import word_documents
from ragstore.sources.markdown_sections import sections_of
from ragstore.sources.readers import read
from tests.support.files import a_docx, a_word_paragraph, a_word_table


def test_headings_paragraphs_and_tables_are_kept() -> None:
    body = (
        a_word_paragraph("Guide", "Heading1")
        + a_word_paragraph("First words.")
        + a_word_paragraph("Setup", "Heading2")
        + a_word_table([["Option", "Default"], ["port", "5432"]])
    )
    read_text = read(a_docx(body, title="A title"), "a.docx")
    assert read_text.shape == "markdown"
    assert read_text.metadata == {"title": "A title"}
    lines = [line for line in read_text.text.split("\n") if line]
    assert lines[:3] == ["# Guide", "First words.", "## Setup"]
    assert [line for line in lines if "port" in line] == ["| port | 5432 |"]


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = a_docx(a_word_paragraph("x"), extra={"word/big.xml": b"0" * (32 * 1024 * 1024)})
    assert len(bomb) < 200_000
    with pytest.raises(LimitExceededError, match="would unpack to 33,5"):
        read(bomb, "a.docx")


def test_a_bomb_that_lies_about_its_size_gives_no_more_than_it_said() -> None:
    honest = a_docx(a_word_paragraph("x" * 50_000_000))
    buffer = io.BytesIO(honest)
    with zipfile.ZipFile(buffer) as archive:
        real = archive.getinfo("word/document.xml").file_size
    lying = honest.replace(real.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(lying, "a.docx")


def test_many_small_members_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    document = a_docx(a_word_paragraph("x"), extra={f"word/{i}.xml": b"0" * 10_000 for i in range(8)})
    monkeypatch.setattr(word_documents, "MAX_UNPACKED_BYTES", 80_000)
    with pytest.raises(LimitExceededError):
        read(document, "a.docx")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_document_is_damaged(keep: float) -> None:
    whole = a_docx(a_word_paragraph("Some words. " * 50))
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(whole[: int(len(whole) * keep)], "a.docx")


def test_broken_xml_inside_is_damaged() -> None:
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(a_docx("<w:p><w:r>"), "a.docx")


def test_entities_cannot_multiply() -> None:
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    bomb = f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]>'
    document = f'<?xml version="1.0"?>{bomb}<w:document xmlns:w="x"><w:body>&e9;</w:body></w:document>'
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(a_docx("", extra={"word/document.xml": document.encode()}), "a.docx")


_RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MATH = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'


def a_part(root: str, inner: str) -> bytes:
    return (
        f'<?xml version="1.0"?><w:{root} xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        f'xmlns:r="{_RELATIONSHIPS}">{inner}</w:{root}>'
    ).encode()


def with_parts(**parts: bytes) -> dict[str, bytes]:
    """Members for ``extra`` of a document whose relationship ``r_NAME`` leads to ``word/NAME.xml``."""
    types = {name: name.rstrip("0123456789") for name in parts}
    rels = "".join(
        f'<Relationship Id="r_{name}" Type="{_RELATIONSHIPS}/{types[name]}" Target="{name}.xml"/>' for name in parts
    )
    space = "http://schemas.openxmlformats.org/package/2006/relationships"
    members = {f"word/{name}.xml": data for name, data in parts.items()}
    return {
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{space}">{rels}</Relationships>'.encode(),
        **members,
    }


def run(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def text_of(body: str, **parts: bytes) -> str:
    return read(a_docx(body, extra=with_parts(**parts)), "a.docx").text


def notes_of(body: str, **parts: bytes) -> dict[str, int | str]:
    return read(a_docx(body, extra=with_parts(**parts)), "a.docx").notes


def m(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


@pytest.mark.parametrize(
    ("omml", "text"),
    [
        (f"{m('E=m')}<m:sSup><m:e>{m('c')}</m:e><m:sup>{m('2')}</m:sup></m:sSup>", "E=mc^2"),
        (f"<m:f><m:num>{m('a+b')}</m:num><m:den>{m('2')}</m:den></m:f>", "(a+b)/2"),
        (f"<m:rad><m:deg/><m:e>{m('x')}</m:e></m:rad>", "√(x)"),
        (f"<m:sSub><m:e>{m('x')}</m:e><m:sub>{m('i')}</m:sub></m:sSub>", "x_i"),
        (
            (
                f'<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>{m("i=1")}</m:sub><m:sup>{m("n")}</m:sup>'
                f"<m:e>{m('i')}</m:e></m:nary>"
            ),
            "∑_(i=1)^n i",
        ),
        (f'<m:d><m:dPr><m:begChr m:val="["/><m:endChr m:val="]"/></m:dPr><m:e>{m("a")}</m:e></m:d>', "[a]"),
        (
            f"<m:m><m:mr><m:e>{m('1')}</m:e><m:e>{m('0')}</m:e></m:mr><m:mr><m:e>{m('0')}</m:e><m:e>{m('1')}</m:e></m:mr></m:m>",
            "[1, 0; 0, 1]",
        ),
    ],
)
def test_an_equation_is_a_line_of_text(omml: str, text: str) -> None:
    body = f"<w:p>{run('Torque limit: ')}<m:oMath {_MATH}>{omml}</m:oMath></w:p>"
    assert text_of(body) == f"Torque limit: {text}"


def a_field(code: str, result: str) -> str:
    char = '<w:r><w:fldChar w:fldCharType="{}"/></w:r>'.format
    instruction = f"<w:r><w:instrText>{code}</w:instrText></w:r>"
    return char("begin") + instruction + char("separate") + run(result) + char("end")


def test_fields_show_their_results() -> None:
    simple = f'<w:fldSimple w:instr="REF x">{run("4.2 Liability")}</w:fldSimple>'
    assert text_of(f"<w:p>{run('See ')}{simple}{run(' for limits.')}</w:p>") == "See 4.2 Liability for limits."
    nested = a_field("REF y", "x</w:t></w:r>" + a_field("DATE", "May 4") + "<w:r><w:t>z")
    assert text_of(f"<w:p>{run('On ')}{nested}</w:p>") == "On xMay 4z"


def test_fields_of_forms_show_what_was_chosen() -> None:
    def field(data: str) -> str:
        return f'<w:r><w:fldChar w:fldCharType="begin"><w:ffData>{data}</w:ffData></w:fldChar></w:r><w:r><w:fldChar w:fldCharType="end"/></w:r>'

    boxes = field("<w:checkBox><w:checked/></w:checkBox>") + field('<w:checkBox><w:default w:val="0"/></w:checkBox>')
    listed = field('<w:ddList><w:result w:val="1"/><w:listEntry w:val="red"/><w:listEntry w:val="blue"/></w:ddList>')
    assert text_of(f"<w:p>{boxes}{run(' ')}{listed}</w:p>") == "☒☐ blue"


def test_a_text_box_is_read_once_in_either_form() -> None:
    box = f"<w:txbxContent>{a_word_paragraph('In the box.')}</w:txbxContent>"
    both = (
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<mc:Choice><w:drawing>{box}</w:drawing></mc:Choice><mc:Fallback><w:pict>{box}</w:pict></mc:Fallback>"
        "</mc:AlternateContent>"
    )
    expected = "Before.\n\nIn the box."
    for drawing in (both, f"<w:drawing>{box}</w:drawing>", f"<w:pict>{box}</w:pict>"):
        assert text_of(f"<w:p>{run('Before.')}<w:r>{drawing}</w:r></w:p>") == expected


def test_headers_and_footers_stand_once_around_their_section() -> None:
    section = '<w:sectPr><w:headerReference w:type="default" r:id="r_header1"/><w:footerReference w:type="default" r:id="r_footer1"/></w:sectPr>'
    section = section.replace("<w:sectPr>", f'<w:sectPr xmlns:r="{_RELATIONSHIPS}">')
    page = f"<w:p>{run('Page ')}{a_field('PAGE', '3')}{run(' of ')}{a_field('NUMPAGES', '9')}</w:p>"
    body = f"<w:p><w:pPr>{section}</w:pPr>{run('First section.')}</w:p>{a_word_paragraph('Second section.')}{section}"
    header, footer = a_part("hdr", a_word_paragraph("Contract 4711")), a_part("ftr", page)
    assert text_of(body, header1=header, footer1=footer) == "Contract 4711\n\nFirst section.\n\nSecond section."
    spoken = a_part("ftr", page + a_word_paragraph("Confidential"))
    assert text_of(body, header1=header, footer1=spoken).endswith("First section.\n\nConfidential\n\nSecond section.")


def test_notes_and_comments_follow_their_paragraph() -> None:
    body = (
        f'<w:p>{run("Oil")}<w:r><w:footnoteReference w:id="2"/></w:r>{run(" is cheap.")}'
        '<w:r><w:commentReference w:id="0"/></w:r></w:p>' + a_word_paragraph("Next.")
    )
    footnotes = a_part("footnotes", f'<w:footnote w:id="2">{a_word_paragraph("In 2024.")}</w:footnote>')
    comments = a_part("comments", f'<w:comment w:id="0" w:author="Ann">{a_word_paragraph("Is it?")}</w:comment>')
    assert text_of(body, footnotes=footnotes, comments=comments) == (
        "Oil[1] is cheap.\n\n[1] In 2024.\n\nComment by Ann: Is it?\n\nNext."
    )


def test_charts_and_diagrams_give_their_words() -> None:
    c = "http://schemas.openxmlformats.org/drawingml/2006/chart"

    def points(*texts: str) -> str:
        return "".join(f'<c:pt idx="{i}"><c:v>{text}</c:v></c:pt>' for i, text in enumerate(texts))

    chart = (
        f'<c:chartSpace xmlns:c="{c}" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><c:chart><c:title>'
        "<a:p><a:r><a:t>Sales</a:t></a:r></a:p></c:title><c:ser>"
        f"<c:tx>{points('2024')}</c:tx><c:cat>{points('Bern', 'Genf')}</c:cat><c:val>{points('5', '7')}</c:val></c:ser></c:chart></c:chartSpace>"
    )
    drawing = f'<w:p><w:r><w:drawing><c:chart xmlns:c="{c}" xmlns:r="{_RELATIONSHIPS}" r:id="r_chart"/></w:drawing></w:r></w:p>'
    assert (
        text_of(drawing, chart=chart.encode())
        == "Chart: Sales\n\n|  | 2024 |\n| --- | --- |\n| Bern | 5 |\n| Genf | 7 |"
    )
    assert notes_of(a_word_paragraph("x") + drawing) == {"charts_left_out": 1}
    dgm = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
    data = (
        f'<dgm:dataModel xmlns:dgm="{dgm}" xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><dgm:ptLst><dgm:pt>'
        "<dgm:t><a:p><a:r><a:t>Plan</a:t></a:r></a:p></dgm:t></dgm:pt></dgm:ptLst></dgm:dataModel>"
    )
    drawing = f'<w:p><w:r><w:drawing><dgm:relIds xmlns:dgm="{dgm}" xmlns:r="{_RELATIONSHIPS}" r:dm="r_data"/></w:drawing></w:r></w:p>'
    assert text_of(drawing, data=data.encode()) == "- Plan"


def test_an_equation_in_a_foreign_object_is_counted() -> None:
    ole = '<w:object><o:OLEObject xmlns:o="urn:schemas-microsoft-com:office:office" ProgID="Equation.3"/></w:object>'
    assert notes_of(f"<w:p>{run('Limit:')}<w:r>{ole}</w:r></w:p>") == {"equations_left_out": 1}


def test_titles_are_headings_and_give_the_title() -> None:
    body = a_word_paragraph("The Plan", "Title") + a_word_paragraph("In short", "Subtitle") + a_word_paragraph("Text.")
    read_text = read(a_docx(body), "a.docx")
    assert read_text.text == "# The Plan\n\n## In short\n\nText."
    assert read_text.metadata == {"title": "The Plan"}


def test_a_heading_is_known_by_its_style_in_any_language() -> None:
    style = '<w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style><w:style w:styleId="Own"><w:basedOn w:val="berschrift2"/></w:style>'
    body = a_word_paragraph("Eins", "berschrift2") + a_word_paragraph("Zwei", "Own")
    assert text_of(body, styles=a_part("styles", style)) == "## Eins\n\n## Zwei"


def test_hidden_and_deleted_text_is_left_out() -> None:
    hidden = run("secret words", "<w:vanish/>") + run("plain", '<w:vanish w:val="0"/>')
    changed = f"<w:del>{run('old')}</w:del><w:ins>{run(' new')}</w:ins>"
    body = f"<w:p>{hidden}{changed}</w:p>"
    assert text_of(body) == "plain new"
    assert notes_of(body) == {"hidden_words": 2}
    style = '<w:style w:styleId="Hid"><w:rPr><w:vanish/></w:rPr></w:style>'
    styled = a_word_paragraph("unseen", "Hid") + a_word_paragraph("seen")
    assert text_of(styled, styles=a_part("styles", style)) == "seen"


@pytest.mark.parametrize("typed", ["# text", "  ## text", "---", "```", "====", "~~~"])
def test_what_somebody_typed_is_no_mark_of_markdown(typed: str) -> None:
    read_text = read(a_docx(a_word_paragraph("One") + a_word_paragraph(typed) + a_word_paragraph("Two")), "a.docx")
    chunks = split(read_text, Chunking(64, 0))
    assert [chunk.headings for chunk in chunks] == [()]
    assert typed.strip() in read_text.text
    assert not next(iter(sections_of(read_text.text, markdown=True))).fences


def test_the_first_row_of_a_table_is_its_header() -> None:
    text = text_of(a_word_table([["Option", "Default"], ["port", "a|b"]]))
    assert text == "| Option | Default |\n| --- | --- |\n| port | a\\|b |"


def test_merged_cells_keep_their_columns() -> None:
    def cell(text: str, properties: str = "") -> str:
        return f"<w:tc><w:tcPr>{properties}</w:tcPr>{a_word_paragraph(text)}</w:tc>"

    first = cell("North", '<w:vMerge w:val="restart"/>') + cell("Q1") + cell("10")
    rows = (
        cell("Region") + cell("Sales", '<w:gridSpan w:val="2"/>'),
        first,
        cell("", "<w:vMerge/>") + cell("Q2") + cell("20"),
    )
    table = "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>"
    assert text_of(table).split("\n") == [
        "| Region | Sales |  |",
        "| --- | --- | --- |",
        "| North | Q1 | 10 |",
        "| North | Q2 | 20 |",
    ]


def test_a_table_in_a_cell_keeps_its_words_in_that_cell() -> None:
    inner = a_word_table([["a", "b"], ["c", "d"]])
    table = f"<w:tbl><w:tr><w:tc>{a_word_paragraph('x')}</w:tc><w:tc>{inner}</w:tc></w:tr></w:tbl>"
    assert text_of(table).split("\n")[0] == "| x | a, b c, d |"


def test_a_table_of_one_cell_is_text() -> None:
    assert text_of(a_word_table([["Note: mind the gap."]])) == "Note: mind the gap."


def test_lists_have_the_numbers_that_word_shows() -> None:
    levels = (
        '<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl>'
    )
    bullets = '<w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="\uf0b7"/></w:lvl>'
    numbering = a_part(
        "numbering",
        f'<w:abstractNum w:abstractNumId="0">{levels}</w:abstractNum><w:abstractNum w:abstractNumId="1">{bullets}</w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
        '<w:num w:numId="3"><w:abstractNumId w:val="0"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride></w:num>',
    )

    def item(text: str, num_id: int, level: int = 0) -> str:
        mark = f'<w:pPr><w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{num_id}"/></w:numPr></w:pPr>'
        return f"<w:p>{mark}{run(text)}</w:p>"

    body = (
        item("one", 1)
        + item("sub", 1, 1)
        + item("sub", 1, 1)
        + item("two", 1)
        + item("sub", 1, 1)
        + item("dot", 2)
        + item("x", 3)
    )
    assert text_of(body, numbering=numbering).split("\n\n") == [
        "1. one", "  1.a) sub", "  1.b) sub", "2. two", "  2.a) sub", "- dot", "7. x",
    ]  # fmt: skip


def test_content_controls_line_breaks_tabs_and_symbols_are_read() -> None:
    control = f"<w:sdt><w:sdtPr/><w:sdtContent>{run('in a control')}</w:sdtContent></w:sdt>"
    asked = run("Click here", '<w:rStyle w:val="PlaceholderText"/>')
    prompt = f"<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>{asked}</w:sdtContent></w:sdt>"
    body = f'<w:p>{control}<w:r><w:br/><w:t>b</w:t><w:tab/><w:t>c</w:t><w:sym w:font="Symbol" w:char="F061"/></w:r>{prompt}</w:p>'
    assert text_of(body) == "in a control\nb\tcα"
    assert notes_of(body) == {"controls_unfilled": 1}


def test_a_damaged_part_beside_the_document_is_counted() -> None:
    assert notes_of(a_word_paragraph("x"), comments=b"<w:comments") == {"damaged_parts": 1}


def test_deeply_nested_content_is_refused() -> None:
    deep = "<w:sdt><w:sdtContent>" * 5_000 + a_word_paragraph("x") + "</w:sdtContent></w:sdt>" * 5_000
    with pytest.raises(ParseError, match="is nested too deeply"):
        read(a_docx(deep), "a.docx")


def test_an_entity_in_another_part_cannot_multiply() -> None:
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    bomb = f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]><w:comments xmlns:w="x">&e9;</w:comments>'
    assert notes_of(a_word_paragraph("x"), comments=bomb.encode()) == {"damaged_parts": 1}


def test_columns_that_a_cell_claims_are_bounded() -> None:
    wide = f'<w:tc><w:tcPr><w:gridSpan w:val="999999999"/></w:tcPr>{a_word_paragraph("x")}</w:tc>'
    assert len(text_of(f"<w:tbl><w:tr>{wide}<w:tc>{a_word_paragraph('y')}</w:tc></w:tr></w:tbl>")) < 1_000
