"""Small files of each format, built by hand so that a test can break them where it wants."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def a_pdf(pages: Sequence[str], *, title: str = "", encrypted: bool = False) -> bytes:
    """A PDF with a page for each text, one text line a line; encrypted with a password nobody knows."""
    kids = " ".join(f"{6 + 2 * i} 0 R" for i in range(len(pages)))
    key = "A" * 64
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{key}> /U <{key}> >>".encode(),
        f"<< /Title ({title}) >>".encode("latin-1"),
    ]
    for i, page in enumerate(pages):
        lines = " ".join(f"({line}) Tj 0 -14 Td" for line in page.split("\n")) if page else ""
        content = f"BT /F1 12 Tf 72 720 Td {lines} ET".encode("latin-1")
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (7 + 2 * i)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    encrypt = b"/Encrypt 4 0 R /ID [<00> <00>]" if encrypted else b""
    return a_pdf_of(objects, b"/Info 5 0 R " + encrypt)


def a_pdf_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1; the first one is the catalog."""
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, trailer)
    out += b"startxref\n%d\n%%%%EOF\n" % xref
    return bytes(out)


def a_pdf_page(content: str, page: str = "", further: Sequence[str] = (), catalog: str = "") -> bytes:
    """A PDF of one page with this content stream, whose font is ``/F1``.

    Args:
        page: further entries of the page, e.g. ``/Rotate 90``.
        further: objects that these refer to, numbered from 6.
        catalog: further entries of the catalog.
    """
    data = content.encode("latin-1")
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        "<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents 5 0 R {page} >>",
        f"<< /Length {len(data)} >>\nstream\n{content}\nendstream",
        *further,
    ]
    return a_pdf_of([each.encode("latin-1") for each in objects])


def a_docx(body: str, *, title: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    """A Word document with this XML in its body; ``extra`` are further members of the archive."""
    document = f'<?xml version="1.0"?><w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>'
    members = {
        "[Content_Types].xml": (
            b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            b'<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            b'<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument'
            b'.wordprocessingml.document.main+xml"/></Types>'
        ),
        "_rels/.rels": (
            b'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            b'<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
            b'officeDocument" Target="word/document.xml"/></Relationships>'
        ),
        "docProps/core.xml": (
            '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></cp:coreProperties>'
        ).encode(),
        "word/document.xml": document.encode(),
        **(extra or {}),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def a_word_paragraph(text: str, style: str = "") -> str:
    """Body XML of one paragraph, e.g. of style ``Heading1``."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def a_word_table(rows: Sequence[Sequence[str]]) -> str:
    """Body XML of a table."""
    cells = ("".join(f"<w:tc>{a_word_paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def a_zip(members: dict[str, bytes | str]) -> bytes:
    """An archive; a member ``mimetype`` is stored as it is, the others are compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_STORED if name == "mimetype" else None)
    return buffer.getvalue()


def relations(targets: dict[str, tuple[str, str]]) -> str:
    """A part of relations: id → (type, target)."""
    each = "".join(
        f'<Relationship Id="{id_}" Type="{_OFFICE_RELATIONS}/{type_}" Target="{target}"/>'
        for id_, (type_, target) in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{each}</Relationships>'


def an_xlsx(
    sheets: dict[str, str], *, hidden: Sequence[str] = (), extra: dict[str, bytes | str] | None = None
) -> bytes:
    """A workbook: name of a sheet → XML inside its ``worksheet``, e.g. of ``sheet_rows``."""
    names = list(sheets)
    entries = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="rId{i}" state="{"hidden" if name in hidden else "visible"}"/>'
        for i, name in enumerate(names, 1)
    )
    members: dict[str, bytes | str] = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": relations({"rId1": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE_RELATIONS}"><sheets>{entries}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(
            {f"rId{i}": ("worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(names) + 1)}
            | {"rIdS": ("styles", "styles.xml")}
        ),
        # Style 1 is a date.
        "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}"><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
        **{
            f"xl/worksheets/sheet{i}.xml": f'<worksheet xmlns="{_MAIN}">{sheets[name]}</worksheet>'
            for i, name in enumerate(names, 1)
        },
        **(extra or {}),
    }
    return a_zip(members)


def sheet_rows(rows: Sequence[Sequence[str | float]], *, first_row: int = 1) -> str:
    """XML of rows; a text that begins with ``<`` is XML of its cell, with ``{at}`` for the cell's name."""

    def cell(value: str | float, at: str) -> str:
        if isinstance(value, str) and value.startswith("<"):
            return value.replace("{at}", at)
        if isinstance(value, str):
            return f'<c r="{at}" t="inlineStr"><is><t>{value}</t></is></c>' if value else ""
        return f'<c r="{at}"><v>{value}</v></c>'

    lines = []
    for number, row in enumerate(rows, first_row):
        cells = "".join(cell(value, f"{chr(65 + i)}{number}") for i, value in enumerate(row))
        lines.append(f'<row r="{number}">{cells}</row>')
    return f"<sheetData>{''.join(lines)}</sheetData>"


_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
_SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
SLIDE_NAMES = f'xmlns:a="{_DRAWING}" xmlns:p="{_SLIDES}" xmlns:r="{_OFFICE_RELATIONS}"'


def a_pptx(slides: Sequence[str], *, extra: dict[str, bytes | str] | None = None, title: str = "") -> bytes:
    """A presentation: XML of the shapes of each slide, e.g. of ``slide_text``."""
    ids = "".join(f'<p:sldId id="{255 + i}" r:id="rId{i}"/>' for i in range(1, len(slides) + 1))
    members: dict[str, bytes | str] = {
        "_rels/.rels": relations({"rId1": ("officeDocument", "ppt/presentation.xml")}),
        "docProps/core.xml": (
            f'<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></cp:coreProperties>'
        ),
        "ppt/presentation.xml": f"<p:presentation {SLIDE_NAMES}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(
            {f"rId{i}": ("slide", f"slides/slide{i}.xml") for i in range(1, len(slides) + 1)}
        ),
        **{
            f"ppt/slides/slide{i}.xml": (f"<p:sld {SLIDE_NAMES}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>")
            for i, shapes in enumerate(slides, 1)
        },
        **(extra or {}),
    }
    return a_zip(members)


def slide_text(*paragraphs: str, kind: str = "") -> str:
    """XML of a shape with text; ``kind`` is that of a placeholder, e.g. ``title``."""
    place = f'<p:ph type="{kind}"/>' if kind else ""
    lines = "".join(f"<a:p><a:r><a:t>{paragraph}</a:t></a:r></a:p>" for paragraph in paragraphs)
    return f"<p:sp><p:nvSpPr><p:nvPr>{place}</p:nvPr></p:nvSpPr><p:txBody>{lines}</p:txBody></p:sp>"
