"""What is read of mails, mailboxes and saved web pages."""

from __future__ import annotations

import io
import struct
from email.message import EmailMessage
from pathlib import Path

import pytest

from ragstore.errors import ContentError, LimitExceededError, ParseError
from ragstore.sources import mails
from ragstore.sources.containers import Walk, open_container
from ragstore.sources.mail_heads import begins_mailbox, begins_message
from ragstore.sources.members import Room
from ragstore.sources.raw import Choices
from ragstore.sources.readers import ReadText, read
from tests.support.containers_made import a_mail, a_mailbox


def walk_of(data: bytes, name: str = "x.eml") -> Walk:
    container = open_container(io.BytesIO(data), name, Room(max_member_bytes=1_000_000), Choices())
    assert container is not None
    container.check()
    return Walk(container, "/x")


def body(data: bytes, name: str = "x.eml") -> ReadText:
    text = walk_of(data, name).own_text()
    assert text is not None
    return text


def raw_mail(headers: str, content: bytes) -> bytes:
    return f"From: ann@example.com\nDate: Tue, 02 Jan 2024 10:00:00 +0100\n{headers}\n\n".encode() + content


def members_of(data: bytes, name: str = "x.eml") -> dict[str, str]:
    found = {}
    for leaf in walk_of(data, name).leaves():
        text = str(leaf.error) if leaf.read is None else leaf.read().text.strip()
        found[leaf.document_id.removeprefix("/x!//")] = text
    return found


def test_the_head_of_a_mail_is_found_as_text_and_as_metadata() -> None:
    text = body(a_mail(subject="Grüße: 30 €"))
    assert text.text.splitlines()[:4] == [
        "Subject: Grüße: 30 €",
        "From: Ann Example <ann@example.com>",
        "To: Bob <bob@example.com>",
        "Date: 2024-01-02 10:00:00+01:00",
    ]
    assert text.text.rstrip().endswith("The pump needs oil.")
    assert text.metadata == {
        "title": "Grüße: 30 €",
        "subject": "Grüße: 30 €",
        "from": "Ann Example <ann@example.com>",
        "to": "Bob <bob@example.com>",
        "date": "2024-01-02 10:00:00+01:00",
        "message_id": "one@example.com",
    }


@pytest.mark.parametrize(
    ("headers", "content", "words"),
    [
        ("Content-Type: text/plain; charset=iso-8859-1", b"costs 30 \x80 \x96 today", "costs 30 € – today"),
        ("Content-Type: text/plain; charset=iso-8859-1", "Настоящий договор вступает в силу.".encode("cp1251"), "Настоящий договор вступает в силу."),
        ("Content-Type: text/plain; charset=windows-1252", "Schöne Grüße".encode(), "Schöne Grüße"),
        ("Content-Type: text/plain; charset=koi8-r", "Договор".encode("koi8-r"), "Договор"),
        ("Content-Type: text/plain; charset=gb2312", "镕基 条款".encode("gbk"), "镕基 条款"),
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable", b"caf=C3=A9=\n s", "café s"),
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64", b"Y2Fmw6k=", "café"),
        ("Content-Type: text/plain; charset=unknown-x", "naïve".encode(), "naïve"),
        ("Content-Type: text/plain; charset=utf-8", "Größe".encode("latin-1") + b" of the pump", "Gr"),
        ("Content-Type: text/plain; format=flowed", b"one line \nthat goes on\n> quoted \n> words\n", "one line that goes on\n> quoted words"),
        ("Content-Type: text/plain; format=flowed; delsp=yes", b"Donau \ndampf", "Donaudampf"),
        ("X: y", b"no type at all", "no type at all"),
    ],
)  # fmt: skip
def test_bodies_are_decoded(headers: str, content: bytes, words: str) -> None:
    assert words in body(raw_mail(headers, content)).text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Subject: =?iso-8859-1?Q?Stra=DFe?= =?utf-8?B?IPCfmoI=?=", "Straße 🚂"),
        ("Subject: =?shift_jis?B?k/qWew==?=", "日本"),
        ("Subject: =?x-none?Q?abc?=", "abc"),
        ("Subject: a long\n subject", "a long subject"),
    ],
)
def test_subjects_are_decoded(header: str, words: str) -> None:
    assert body(raw_mail(header, b"x")).metadata["title"] == words


def test_plain_text_is_read_rather_than_html_unless_it_is_a_stub() -> None:
    html = "<html><body><p>The <b>valve</b> opens.</p><p>" + "More words. " * 30 + "</p></body></html>"
    assert "valve" not in body(a_mail("The pump needs oil.", html=html)).text
    for stub in ("", "Please view this mail in your browser: https://example.com/1"):
        text = body(a_mail(stub, html=html)).text
        assert "valve opens." in text and "browser" not in text


def test_parts_that_are_no_alternatives_are_all_read() -> None:
    mail = EmailMessage()
    mail["From"], mail["Date"] = "ann@example.com", "Tue, 02 Jan 2024 10:00:00 +0100"
    mail.make_mixed()
    for text, subtype in (("First words.", "plain"), ("<p>Second words.</p>", "html"), ("Third words.", "plain")):
        part = EmailMessage()
        part.set_content(text, subtype=subtype)
        mail.attach(part)
    text = body(mail.as_bytes()).text
    assert text.index("First") < text.index("Second") < text.index("Third")


def test_attachments_are_members_and_what_nobody_reads_is_noted() -> None:
    mail = EmailMessage()
    mail["From"], mail["Date"], mail["Subject"] = "ann@example.com", "Tue, 02 Jan 2024 10:00:00 +0100", "All"
    mail.set_content("See what is attached.")
    mail.add_attachment(b"name,x\nann,5\n", maintype="text", subtype="csv", filename="../../Übersicht.csv")
    mail.add_attachment(b"again", maintype="text", subtype="plain", filename="a.txt")
    mail.add_attachment(b"and again", maintype="text", subtype="plain", filename="a.txt")
    mail.add_attachment(b"BEGIN:VCALENDAR\nSUMMARY:Meeting\n", maintype="text", subtype="calendar", filename="i.ics")
    mail.add_attachment(b"\x89PNG", maintype="image", subtype="png", disposition="inline", cid="<1@x>")
    mail.add_attachment(b"sig", maintype="application", subtype="pkcs7-signature", filename="smime.p7s")
    mail.add_attachment(b"tnef", maintype="application", subtype="ms-tnef", filename="winmail.dat")
    mail.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="setup.exe")
    inner = EmailMessage()
    inner["From"], inner["Subject"] = "bob@example.com", "Re: pump"
    inner.set_content("Forwarded words.")
    inner.add_attachment(b"deep words", maintype="text", subtype="plain", filename="deep.txt")
    mail.add_attachment(inner)
    found = members_of(mail.as_bytes())
    assert list(found) == ["Übersicht.csv", "a.txt", "a~2.txt", "i.ics.txt", "Re: pump.eml!//deep.txt", "Re: pump.eml"]
    assert "SUMMARY:Meeting" in found["i.ics.txt"] and "Forwarded words." in found["Re: pump.eml"]
    walk = walk_of(mail.as_bytes())
    list(walk.leaves())
    assert walk.notes == {"images_left_out": 1, "signatures": 1, "unread_winmail_parts": 1}
    assert walk.left_out.examples == {"type .exe": ["/x!//setup.exe"]}


def test_names_of_attachments_are_decoded() -> None:
    parts = (
        b"--b\nContent-Disposition: attachment; filename*=UTF-8''%C3%BC.txt\n\nx\n"
        b'--b\nContent-Disposition: attachment; filename*0="long"; filename*1="er.txt"\n\nx\n'
        b'--b\nContent-Disposition: attachment; filename="=?koi8-r?B?xC50eHQ=?="\n\nx\n--b--\n'
    )
    mail = raw_mail('Content-Type: multipart/mixed; boundary="b"', parts)
    assert list(members_of(mail)) == ["ü.txt", "longer.txt", "д.txt"]


def test_each_message_of_a_mailbox_is_a_document_named_by_its_id() -> None:
    first = a_mail("Said:\n\nFrom here on it is dry.\n", message_id="<a/b@example.com>")
    box = a_mailbox(
        first, a_mail(message_id="<two@example.com>"), a_mail(message_id=""), a_mail(message_id="<two@example.com>")
    )
    found = members_of(box, "x.mbox")
    assert list(found)[:2] == ["a_b@example.com", "two@example.com"] and list(found)[3] == "two@example~2.com"
    without_id = list(found)[2]
    assert without_id.startswith("without-id-")
    assert "\nFrom here on it is dry." in found["a_b@example.com"]
    # One message more changes no other's name.
    assert without_id in members_of(a_mailbox(a_mail("New.", message_id="<new@example.com>")) + box, "x.mbox")
    assert len(members_of(box.replace(b"\n", b"\r\n"), "x.txt")) == 4


@pytest.mark.parametrize(
    ("head", "is_mail"),
    [
        (b"From: ann@example.com\nMessage-ID: <1@x>\n\nWords", True),
        (b"Return-Path: <a@b>\r\nReceived: from x\r\n\tby y\r\n\r\n", True),
        (b"Subject: a note\nFrom: the desk of Ann\n\nWords", False),
        (b"From: Ann\nTo: Bob\nDear Bob,\n", False),
        (b"From here on: words\n", False),
        (b"Date: today\nTopic: pumps\n\n", False),
        (b"key: value\nother: value\n", False),
        (b"", False),
    ],
)
def test_a_mail_under_another_name_is_recognised_by_classic_headers(head: bytes, is_mail: bool) -> None:
    assert begins_message(head) is is_mail


def test_a_mailbox_is_recognised_by_its_first_line_and_headers() -> None:
    assert begins_mailbox(a_mailbox(a_mail()))
    assert not begins_mailbox(b"From time to time, at 10:00 in 2024\n\nwords")
    assert open_container(io.BytesIO(b"From: x\nwords"), "note.txt", Room(max_member_bytes=9), Choices()) is None


SAVED = b"""From: <Saved by Blink>
Snapshot-Content-Location: https://example.com/
Subject: =?utf-8?Q?A=20page?=
MIME-Version: 1.0
Content-Type: multipart/related;
\ttype="text/html";
\tboundary="--b"

----b
Content-Type: text/html
Content-Transfer-Encoding: quoted-printable

<html><head><meta charset=3D"utf-8"><title>Pumps</title></head><body><p>The pump =
caf=C3=A9.</p></body></html>
----b
Content-Type: text/css

p { color: red }
----b--
"""


@pytest.mark.parametrize("name", ["page.mhtml", "page.mht", "page.html", "page.txt"])
def test_a_saved_web_page_is_read_without_its_resources(name: str) -> None:
    assert open_container(io.BytesIO(SAVED), name, Room(max_member_bytes=9), Choices()) is None
    text = read(SAVED, name)
    assert text.text == "The pump café." and text.metadata == {"title": "Pumps"}
    assert text.notes["resources_left_out"] == 1


def nested_mail(depth: int) -> bytes:
    parts = [f'Content-Type: multipart/mixed; boundary="b{i}"\n\n--b{i}\n' for i in range(depth)]
    return b"From: a@b\nDate: now\n" + "".join(parts).encode() + b"Content-Type: text/plain\n\ndeep\n"


def test_hostile_mails_are_refused_by_name() -> None:
    for data, words in (
        (nested_mail(1_000), "in one another"),
        (b"From: a@b\nDate: x\n" + b"X-A: b\n" * 100_000 + b"\nwords", "headers"),
        (nested_mail(1).replace(b"--b0\n", b"--b0\nContent-Type: text/plain\n\nx\n" * 20_000), "too many parts"),
    ):
        with pytest.raises((LimitExceededError, RecursionError)) as raised:
            walk_of(data)
        assert isinstance(raised.value, RecursionError) or words in str(raised.value)
    forwarded = b"From: a@b\nDate: x\nContent-Type: message/rfc822\n\n" * 400 + b"\nwords"
    with pytest.raises((ContentError, RecursionError)):
        list(members_of(forwarded).values())
        raise ParseError("ended well")


def test_a_mailbox_of_many_messages_is_listed_without_reading_them(tmp_path: Path) -> None:
    box = tmp_path / "x.mbox"
    with box.open("wb") as file:
        for i in range(2_000):
            file.write(a_mailbox(a_mail(f"Message {i}.", message_id=f"<{i}@x>")))
    with box.open("rb") as file:
        container = open_container(file, "x.mbox", Room(max_member_bytes=10_000), Choices())
        assert isinstance(container, mails.MailBox)
        container.check()
        assert sum(1 for _ in container.members()) == 2_000


# Outlook


def an_outlook_message() -> bytes:
    """A small OLE file with the streams of one message, all in its mini stream."""
    texts = {"0037": "Pumpe – neu", "1000": "The pump needs oil.\r\n", "0C1A": "Ann", "0C1F": "ann@example.com"}
    streams = {f"__substg1.0_{number}001F": text.encode("utf-16-le") for number, text in texts.items()}
    sent = (133_500_000_000_000_000).to_bytes(8, "little")
    streams["__properties_version1.0"] = bytes(32) + struct.pack("<II", 0x00390040, 6) + sent
    return an_ole_file(streams)


def an_ole_file(streams: dict[str, bytes]) -> bytes:
    """A compound file (MS-CFB, version 3) with these streams in its root."""
    mini, fat_of_mini, entries = b"", [], []
    for name, data in streams.items():
        start, n = len(mini) // 64, -(-len(data) // 64)
        mini += data.ljust(n * 64, b"\0")
        fat_of_mini += [*range(start + 1, start + n), 0xFFFFFFFE]
        entries.append((name, 2, start, len(data)))
    n_mini = -(-len(mini) // 512)
    n_entries = -(-(len(entries) + 1) // 4)
    first_mini = 2 + n_entries
    fat = [
        0xFFFFFFFD,
        0xFFFFFFFE,
        *range(3, 2 + n_entries),
        0xFFFFFFFE,
        *range(first_mini + 1, first_mini + n_mini),
        0xFFFFFFFE,
    ]
    listed = [("Root Entry", 5, first_mini, len(mini)), *entries]
    directory = b""
    for i, (name, kind, start, size) in enumerate(listed):
        right = i + 1 if 0 < i < len(listed) - 1 else 0xFFFFFFFF
        raw = name.encode("utf-16-le") + b"\0\0"
        child = 1 if i == 0 else 0xFFFFFFFF
        directory += raw.ljust(64, b"\0") + struct.pack("<HBBIII", len(raw), kind, 1, 0xFFFFFFFF, right, child)
        directory += bytes(36) + struct.pack("<IQ", start, size)
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 62, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<IIIIIIIIII", 0, 1, 2, 0, 4096, 1, 1, 0xFFFFFFFE, 0, 0) + struct.pack("<I", 0xFFFFFFFF) * 108
    sectors = struct.pack(f"<{len(fat)}I", *fat).ljust(512, b"\xff")
    sectors += struct.pack(f"<{len(fat_of_mini)}I", *fat_of_mini).ljust(512, b"\xff")
    return header + sectors + directory.ljust(n_entries * 512, b"\0") + mini.ljust(n_mini * 512, b"\0")


def test_a_message_of_outlook_is_read() -> None:
    text = body(an_outlook_message(), "x.msg")
    assert text.text.splitlines()[:2] == ["Subject: Pumpe – neu", "From: Ann <ann@example.com>"]
    assert text.text.endswith("The pump needs oil.")
    assert text.metadata["date"].startswith("2024-01-1") and text.metadata["title"] == "Pumpe – neu"


def test_a_damaged_message_of_outlook_is_refused() -> None:
    whole = an_outlook_message()
    for data in (whole[:600], an_ole_file({"WordDocument": b"x" * 70}), whole[:512] + bytes(len(whole) - 512)):
        with pytest.raises(ParseError):
            walk_of(data, "x.msg")
