"""Containers that tests write: archives and mails, from what is to be in them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage


def a_zip(members: Mapping[str, bytes | str]) -> bytes:
    """A zip archive; names that are not ASCII are marked as UTF-8."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 2, 3, 4, 5)), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def an_encrypted_zip(name: str) -> bytes:
    """A zip archive whose only member is marked as encrypted."""
    data = bytearray(a_zip({name: "secret words"}))
    local, central = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
    data[local + 6] |= 1
    data[central + 8] |= 1
    return bytes(data)


def a_zip_with_raw_names(members: Mapping[bytes, str]) -> bytes:
    """A zip archive with names in whatever encoding they are, as programs of before UTF-8 made them."""
    stand_ins = {f"{i:0{len(name)}}": name for i, name in enumerate(members)}
    data = a_zip({stand_in: members[name] for stand_in, name in stand_ins.items()})
    for stand_in, name in stand_ins.items():
        data = data.replace(stand_in.encode(), name)
    return data


def a_tar(members: Mapping[str, bytes | str | tarfile.TarInfo], mode: str = "w") -> bytes:
    """A tar archive; a ``TarInfo`` is entered as it is, without content.

    Args:
        mode: of ``tarfile.open``, such as ``w:gz``.
    """
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def a_mail(
    body: str = "The pump needs oil.",
    *,
    subject: str = "Maintenance",
    message_id: str = "<one@example.com>",
    attached: Mapping[str, bytes] | None = None,
    html: str = "",
) -> bytes:
    """A mail of Ann to Bob."""
    mail = EmailMessage()
    mail["From"] = "Ann Example <ann@example.com>"
    mail["To"] = "Bob <bob@example.com>"
    mail["Date"] = "Tue, 02 Jan 2024 10:00:00 +0100"
    mail["Subject"] = subject
    if message_id:
        mail["Message-ID"] = message_id
    mail.set_content(body)
    if html:
        mail.add_alternative(html, subtype="html")
    for name, data in (attached or {}).items():
        mail.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return mail.as_bytes()


def a_mailbox(*mails: bytes) -> bytes:
    """An mbox file of these mails."""
    quoted = [mail.replace(b"\nFrom ", b"\n>From ") for mail in mails]
    return b"".join(b"From ann@example.com Tue Jan  2 10:00:00 2024\n" + mail.rstrip() + b"\n\n" for mail in quoted)
