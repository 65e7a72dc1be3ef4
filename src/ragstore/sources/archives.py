"""Archives: zip, tar and single compressed files; nothing of them is ever written to the file system."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, cast

from ragstore.errors import ContentError, LimitExceededError, ParseError, UnsupportedTypeError
from ragstore.sources.members import MAX_MEMBERS, Container, Member, Names, Room, check_ratio, damaged, decoded_names

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
}
_TAR_MARK = slice(257, 262)
_HEAD_BYTES = 512
_CHECKSUM = slice(148, 156)
_COPY_BYTES = 1 << 20
_IS_UTF8 = 0x800
_IS_ENCRYPTED = 0x1
_UNICODE_PATH = 0x7075
_LEAST_ENTRY_BYTES = 46
_END_BYTES = 65_557
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
)
_NO_ZSTD = "Python 3.14, or the package backports.zstd, reads it"


class ZipArchive(Container):
    """A zip archive; its directory at the end lists the members."""

    def check(self) -> None:
        self._infos = self._listed()
        files = [info for info, _ in self._infos if not info.is_dir()]
        if files and all(info.flag_bits & _IS_ENCRYPTED for info in files):
            raise ParseError(
                "is an encrypted zip archive", hint="unpack it with its password, and name the folder instead"
            )
        check_ratio(sum(info.file_size for info in files), _size_of(self.file))

    def _listed(self) -> list[tuple[zipfile.ZipInfo, str]]:
        try:
            if _directory_bytes(self.file) // _LEAST_ENTRY_BYTES > MAX_MEMBERS:
                raise LimitExceededError(f"has more than {MAX_MEMBERS:,} members", hint="split it, or unpack it")
            self._zip = zipfile.ZipFile(self.file)
        except _BROKEN as error:
            raise damaged("a zip archive", error) from error
        infos = self._zip.infolist()
        old = [info for info in infos if not info.flag_bits & _IS_UTF8]
        names, encoding = decoded_names([info.orig_filename.encode("cp437") for info in old], self.choices, "cp437")
        if encoding not in ("utf-8", "cp437"):
            self.notes["names_decoded_as"] = encoding
        decoded = dict(zip(map(id, old), names, strict=True))
        return [(info, _unicode_path(info) or decoded.get(id(info), info.orig_filename)) for info in infos]

    def members(self) -> Iterator[Member]:
        names = Names()
        for info, raw in self._infos:
            if info.is_dir() or raw.endswith("/"):
                continue
            self.room.add_member()
            # Programs of Windows wrote backslashes, although the format has slashes.
            name = names.of(raw, backslashes="/" not in raw)
            if (info.external_attr >> 28) == 0o12:
                self.left_out.add("links", [name])
            elif not self.is_unread(name):
                yield Member(name, partial(self._read, info))

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & _IS_ENCRYPTED:
            raise ParseError("is encrypted", hint="unpack the archive with its password, and name the folder instead")
        self.room.check_size(info.file_size)
        try:
            with self._zip.open(info) as file:
                return _bounded(cast("BinaryIO", file), self.room)
        except NotImplementedError as error:
            raise UnsupportedTypeError(
                f"is compressed in a way that Python does not know: {error}", hint="make the archive anew with deflate"
            ) from error
        except (*_BROKEN, RuntimeError) as error:
            raise damaged("a member of a zip archive", error) from error


def _directory_bytes(file: BinaryIO) -> int:
    """Size of a zip archive's directory as its last record says it; 0 if there is none."""
    size = _size_of(file)
    file.seek(max(0, size - _END_BYTES))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 16:
        return 0
    n_bytes: int = struct.unpack_from("<L", tail, at + 12)[0]
    # An archive with a larger directory, whose size stands in another record, is longer than this.
    return min(n_bytes, size)


def is_document_in_zip(file: BinaryIO) -> bool:
    """Whether a zip archive is a document that only is kept in one, as those of Office are."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except _BROKEN:
        return False
    return bool(names & {"[Content_Types].xml", "META-INF/container.xml", "META-INF/manifest.xml"}) and not names & {
        "META-INF/MANIFEST.MF"
    }


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name in UTF-8 that Info-ZIP's extra field has, if it belongs to the name in the header."""
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(field) > 5:
            crc = struct.unpack_from("<L", field, 1)[0]
            raw = info.orig_filename.encode("utf-8" if info.flag_bits & _IS_UTF8 else "cp437")
            return field[5:].decode("utf-8", "replace") if crc == zlib.crc32(raw) else None
    return None


class TarArchive(Container):
    """A tar archive, packed or not; it is read twice, once to list it and once for its members."""

    def check(self) -> None:
        self._names: list[str] = []
        raw: list[bytes] = []
        with self._stream() as stream:
            for info in _tar_members(stream):
                self.room.add_member()
                raw.append(info.name.encode("utf-8", "surrogateescape"))
            check_ratio(stream.n_read, _size_of(self.file))
        names, encoding = decoded_names(raw, self.choices, "latin-1")
        if encoding != "utf-8":
            self.notes["names_decoded_as"] = encoding
        distinct = Names()
        self._names = [distinct.of(name) for name in names]

    def members(self) -> Iterator[Member]:
        with self._stream() as stream:
            archive = _opened_tar(stream)
            for info, name in zip(_members_of(archive), self._names, strict=False):
                if info.issym() or info.islnk():
                    self.left_out.add("links", [name])
                elif info.isdir():
                    continue
                elif not info.isreg():
                    self.left_out.add("devices and pipes", [name])
                elif not self.is_unread(name):
                    yield Member(name, partial(self._read, archive, info))

    def _read(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
        self.room.check_size(info.size)
        try:
            file = archive.extractfile(info)
            return _bounded(cast("BinaryIO", file), self.room) if file else b""
        except _BROKEN as error:
            raise damaged("a member of a tar archive", error) from error

    def _stream(self) -> _Stream:
        self.file.seek(0)
        return _Stream(unpacked(self.file), n_packed=_size_of(self.file))


def _tar_members(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    yield from _members_of(_opened_tar(stream))


def _opened_tar(stream: _Stream) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|", errors="surrogateescape", encoding="utf-8")
    except _BROKEN as error:
        raise damaged("a tar archive", error) from error


def _members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    try:
        while (info := archive.next()) is not None:
            # Otherwise the library would remember all of them.
            vars(archive)["members"].clear()
            yield info
    except _BROKEN as error:
        raise damaged("a tar archive", error) from error


class CompressedFile(Container):
    """One file that was compressed, such as ``notes.txt.gz``."""

    def members(self) -> Iterator[Member]:
        name = Names().of(os.path.splitext(os.path.basename(self.name))[0])
        self.room.add_member()
        if not self.is_unread(name):
            yield Member(name, self._read)

    def _read(self) -> bytes:
        self.file.seek(0)
        try:
            with unpacked(self.file) as file:
                data = _bounded(file, self.room)
        except _BROKEN as error:
            raise damaged("a compressed file", error) from error
        check_ratio(len(data), _size_of(self.file))
        return data


def unpacked(file: BinaryIO) -> BinaryIO:
    """The uncompressed bytes of a file, whatever it is compressed with; the file itself if it is not.

    Raises:
        UnsupportedTypeError: Python cannot unpack it.
    """
    head = _head(file, 6)
    compression = next((name for magic, (name, _) in COMPRESSIONS.items() if head.startswith(magic)), None)
    if compression is None:
        return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", _Unclosed(file))))
    return _OPENERS[compression](file)


def _zstd(file: BinaryIO) -> BinaryIO:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return cast("BinaryIO", importlib.import_module(module).ZstdFile(file))
        except ImportError:
            continue
    raise UnsupportedTypeError("is a zstd archive", hint=f"{_NO_ZSTD}; or unpack it, and name the folder instead")


_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "gzip": lambda file: cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")),
    "bzip2": lambda file: cast("BinaryIO", bz2.BZ2File(file)),
    "xz": lambda file: cast("BinaryIO", lzma.LZMAFile(file)),  # noqa: SIM115 - the caller closes it
    "zstd": _zstd,
}


def is_tar(file: BinaryIO) -> bool:
    """Whether a tar archive begins here, packed or not."""
    try:
        with unpacked(file) as stream:
            head = stream.read(_HEAD_BYTES)
    except (ContentError, *_BROKEN):
        return False
    finally:
        file.seek(0)
    return head[_TAR_MARK] == b"ustar" or _is_old_tar(head)


def _is_old_tar(head: bytes) -> bool:
    """Whether a block is the header of a tar archive of before POSIX: its checksum is right."""
    if len(head) < _HEAD_BYTES or not head[0]:
        return False
    try:
        checksum = int(head[_CHECKSUM].strip(b" \0"), 8)
    except ValueError:
        return False
    return checksum == sum(head) - sum(head[_CHECKSUM]) + 8 * ord(" ")


class _Unclosed(io.RawIOBase):
    """A file that stays open when what reads it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Stream:
    """An unpacked stream that counts its bytes and stops where only bombs go on."""

    def __init__(self, file: BinaryIO, *, n_packed: int) -> None:
        self._file = file
        self._n_packed = n_packed
        self.n_read = 0

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.n_read += len(data)
        check_ratio(self.n_read, self._n_packed)
        return data


def _bounded(file: BinaryIO, room: Room) -> bytes:
    """The bytes of a member, a block at a time, so that one that is larger than it says is noticed early."""
    blocks, n_bytes = [], 0
    while block := file.read(_COPY_BYTES):
        n_bytes += len(block)
        room.check_size(n_bytes)
        room.add_bytes(len(block))
        blocks.append(block)
    return b"".join(blocks)


def _size_of(file: BinaryIO) -> int:
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    return size


def _head(file: BinaryIO, n_bytes: int) -> bytes:
    at = file.tell()
    head = file.read(n_bytes)
    file.seek(at)
    return head
