"""Parsing in real child processes: limits, crashes, kills, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import psutil
import pytest

from ragstore.errors import (
    ContentError,
    LimitExceededError,
    ParseError,
    RagstoreError,
    UnreadableError,
    UnsupportedTypeError,
    UsageError,
)
from ragstore.ingest.parse_process import ParserPool
from ragstore.ingest.prefetch import MemoryBudget, Outcome, read_all
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.sources import Bounds
from tests.support.files import a_docx, a_pdf, a_word_paragraph

CHUNKING = Chunking(256, 32)


def a_pool(*, timeout_s: float = 60, memory_mb: int = 2000, n_children: int = 1) -> ParserPool:
    return ParserPool(
        chunking=CHUNKING,
        bounds=Bounds.of([tempfile.gettempdir()]),
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        n_children=n_children,
    )


@pytest.fixture
def pool() -> Iterator[ParserPool]:
    with a_pool() as opened:
        yield opened


def an_item(path: Path, data: bytes | str = b"Some words.") -> SourceItem:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return SourceItem(str(path), str(path), path.stat().st_size)


def a_slow_item(folder: Path) -> SourceItem:
    """A page that takes many seconds and some hundred MB."""
    return an_item(folder / "slow.html", "<html>" + "<p><b>word</b> <i>word</i></p>" * 150_000)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_parser(child)]


def is_parser(process: psutil.Process) -> bool:
    try:
        return "ragstore.ingest.parse_child" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    waiting = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        waiting.wait(0.01)


def until_busy(process: psutil.Process) -> None:
    """Until it has worked for longer than a start takes without pause."""
    begun = sum(process.cpu_times()[:2])
    until(lambda: sum(process.cpu_times()[:2]) > begun + 1)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_works(pool: ParserPool, folder: Path) -> None:
    assert [chunk.text for chunk in pool.parse(an_item(folder / "fine.txt")).chunks] == ["Some words."]


def test_a_document_comes_back_with_all_that_was_found(pool: ParserPool, tmp_path: Path) -> None:
    data = b"---\ntitle: T\n---\n# A\n\nOne\0 word.\n\n## B\n\nTwo.\n"
    document = pool.parse(an_item(tmp_path / "a.md", data))
    assert document.content_hash == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert [(chunk.text, chunk.headings) for chunk in document.chunks] == [
        ("# A\n\nOne word.", ("A",)),
        ("## B\n\nTwo.", ("A", "B")),
    ]
    assert document.metadata == {"title": "T"}
    assert document.notes == {"nul_bytes": 1}
    assert document.n_chars == len("# A\n\nOne word.\n\n## B\n\nTwo.\n")
    assert pool.hash_only(an_item(tmp_path / "a.md", data)) == document.content_hash


def test_pages_and_word_documents_are_read_in_the_child(pool: ParserPool, tmp_path: Path) -> None:
    pdf = pool.parse(an_item(tmp_path / "a.pdf", a_pdf(["One.", "Two."])))
    assert [(chunk.text, chunk.place) for chunk in pdf.chunks] == [("One.\n\nTwo.", {"page": 1})]
    docx = pool.parse(an_item(tmp_path / "a.docx", a_docx(a_word_paragraph("Words."))))
    assert [chunk.text for chunk in docx.chunks] == ["Words."]


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        ("cut.pdf", a_pdf(["One."])[:200], ParseError, "truncated"),
        ("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\0", UnsupportedTypeError, "PNG"),
        ("bomb.docx", a_docx("", extra={"word/x": b"0" * 40_000_000}), LimitExceededError, "would unpack to"),
        ("bad.json", b"{\n]", ParseError, "line 2"),
        ("deep.json", b"[" * 100_000, ParseError, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(
    pool: ParserPool, tmp_path: Path, name: str, data: bytes, kind: type[ContentError], message: str
) -> None:
    item = an_item(tmp_path / name, data)
    with pytest.raises(kind, match=message) as raised:
        pool.parse(item)
    assert raised.value.message.startswith(item.document_id)
    assert raised.value.hint
    assert_works(pool, tmp_path)


def test_a_file_that_vanished_or_became_a_pipe_does_not_stop_the_pool(pool: ParserPool, tmp_path: Path) -> None:
    item = an_item(tmp_path / "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UnreadableError, match="is gone"):
        pool.parse(item)
    with pytest.raises(UnreadableError, match=r"a\.txt is gone"):
        pool.hash_only(item)
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UnsupportedTypeError, match="no regular file"):
        pool.parse(item)
    assert_works(pool, tmp_path)


def test_twenty_megabytes_on_one_line_come_through(tmp_path: Path) -> None:
    with a_pool(memory_mb=512) as pool:
        document = pool.parse(an_item(tmp_path / "line.txt", "x" * 20_000_000))
    assert sum(len(chunk.text) for chunk in document.chunks) == document.n_chars == 20_000_000


def test_a_file_of_too_many_chunks_is_refused_as_a_whole(pool: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match="100,001 chunks"):
        pool.parse(an_item(tmp_path / "headings.md", "# a\n" * 100_001))
    assert_works(pool, tmp_path)


def test_a_file_that_takes_too_long_names_the_option_and_the_others_go_on(tmp_path: Path) -> None:
    item = a_slow_item(tmp_path)
    with a_pool(timeout_s=1) as pool:
        with pytest.raises(LimitExceededError, match=r"slow\.html took longer than 1 s") as raised:
            pool.parse(item)
        assert "RAGSTORE_PARSE_TIMEOUT_S" in raised.value.hint
        assert_works(pool, tmp_path)


def test_a_file_that_takes_too_much_memory_names_the_option_and_the_others_go_on(tmp_path: Path) -> None:
    item = a_slow_item(tmp_path)
    with a_pool(memory_mb=64) as pool:
        assert_works(pool, tmp_path)
        with pytest.raises(LimitExceededError, match=r"slow\.html needs more than 64 MB") as raised:
            pool.parse(item)
        assert "RAGSTORE_PARSE_MEMORY_MB" in raised.value.hint
        assert_works(pool, tmp_path)


def test_a_text_without_sentences_is_cut_in_little_memory(tmp_path: Path) -> None:
    with a_pool(memory_mb=32) as pool:
        assert len(pool.parse(an_item(tmp_path / "a.txt", "word " * 20_000)).chunks) > 50


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGKILL, LimitExceededError), (signal.SIGSEGV, ParseError), (signal.SIGABRT, ParseError)],
)
def test_a_child_that_dies_over_a_file_is_replaced(
    pool: ParserPool, tmp_path: Path, number: signal.Signals, kind: type[ContentError]
) -> None:
    assert_works(pool, tmp_path)
    (child,) = children()
    item = a_slow_item(tmp_path)
    with ThreadPoolExecutor(1) as thread:
        outcome = thread.submit(pool.parse, item)
        until_busy(child)
        child.send_signal(number)
        with pytest.raises(kind, match=r"slow\.html: its reader") as raised:
            outcome.result()
    assert "RAGSTORE_PARSE_MEMORY_MB" in raised.value.hint
    assert raised.value.facts["signal"] == number.name
    assert_works(pool, tmp_path)
    assert children()[0].pid != child.pid


def test_a_child_that_dies_between_two_files_costs_none(pool: ParserPool, tmp_path: Path) -> None:
    assert_works(pool, tmp_path)
    (child,) = children()
    child.kill()
    until(lambda: is_gone(child.pid))
    assert_works(pool, tmp_path)


def test_closing_ends_the_children_also_in_the_middle_of_a_file(tmp_path: Path) -> None:
    pool = a_pool(n_children=2)
    with pool, ThreadPoolExecutor(1) as thread:
        outcome = thread.submit(pool.parse, a_slow_item(tmp_path))
        until(lambda: len(children()) == 1)
        waiting = pool.submit(an_item(tmp_path / "waiting.txt"))
        until_busy(children()[0])
        pool.add_child()
        assert waiting.result()
        pids = [child.pid for child in children()]
        assert len(pids) == 2
        pool.close()
        with pytest.raises(RagstoreError):
            outcome.result()
    assert all(is_gone(pid) for pid in pids)
    with pytest.raises(UsageError, match="closed"):
        pool.parse(an_item(tmp_path / "a.txt"))


def test_a_child_dies_with_its_parent_even_in_the_middle_of_a_file(tmp_path: Path) -> None:
    item = a_slow_item(tmp_path)
    script = (
        "import sys\n"
        "from ragstore.ingest.parse_process import ParserPool\n"
        "from ragstore.model.collection import Chunking\n"
        "from ragstore.model.document import SourceItem\n"
        "from ragstore.sources import Bounds\n"
        "bounds = Bounds.of([sys.argv[1]])\n"
        "pool = ParserPool(chunking=Chunking(256, 32), bounds=bounds, timeout_s=600, memory_mb=2000)\n"
        "pool.parse(SourceItem(sys.argv[1], sys.argv[1], 1))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, item.source_uri]) as parent:
        process = psutil.Process(parent.pid)
        until(lambda: any(is_parser(child) for child in process.children()))
        (child,) = process.children()
        assert os.getsid(child.pid) == child.pid, "a Ctrl-C of the terminal would reach it"
        until_busy(child)
        parent.kill()
    # Far sooner than it would be done with the file and see the end of its stdin.
    until(lambda: is_gone(child.pid), timeout_s=3)


def a_budget(n_bytes: int = 256 * 2**20) -> MemoryBudget:
    return MemoryBudget(n_bytes, dim=256, giving_up=threading.Event())


def outcomes(
    pool: ParserPool, items: Iterable[SourceItem], budget: MemoryBudget | None = None
) -> Generator[Outcome, None, None]:
    """What is read of the items, each giving back at once what it held."""
    budget = budget or a_budget()
    for outcome in read_all(items, pool, budget):
        if outcome is not None:
            budget.release(outcome.n_bytes)
            yield outcome


def test_every_item_has_one_outcome(tmp_path: Path) -> None:
    items = []
    for i in range(600):
        words = f"Words of file {i}." * (1 + i % 7 * 50)
        items.append(an_item(tmp_path / f"{i:03}.txt", words if i % 10 else "%PDF-1.4 and no more"))
    with a_pool(n_children=2) as pool:
        found = {outcome.item: outcome.result for outcome in outcomes(pool, items)}
    assert set(found) == set(items)
    for i, item in enumerate(items):
        result = found[item]
        if i % 10:
            assert isinstance(result, ParsedDocument)
            assert result.chunks[0].text.startswith(f"Words of file {i}.")
        else:
            assert isinstance(result, ContentError)


def test_a_slow_file_holds_up_none_of_the_others(tmp_path: Path) -> None:
    slow = a_slow_item(tmp_path)
    quick = [an_item(tmp_path / f"{i}.txt") for i in range(20)]
    with a_pool(n_children=2) as pool:
        found = outcomes(pool, [slow, *quick])
        assert [next(found).item for _ in quick] == quick
        found.close()


def test_no_child_is_started_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    with a_pool(n_children=2) as pool:
        assert not list(outcomes(pool, []))
        assert not children()
        assert pool.hash_only(an_item(tmp_path / "a.txt"))
        pool.add_child()
        assert not children()


def test_what_ends_the_items_reaches_the_reader(pool: ParserPool, tmp_path: Path) -> None:
    def broken() -> Iterator[SourceItem]:
        yield an_item(tmp_path / "a.txt")
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="folder is gone"):
        list(outcomes(pool, broken()))


def test_reading_stays_a_bounded_number_of_files_ahead(pool: ParserPool, tmp_path: Path) -> None:
    item = an_item(tmp_path / "a.txt")
    taken = 0

    def endless() -> Iterator[SourceItem]:
        nonlocal taken
        while True:
            taken += 1
            yield item

    budget = a_budget()
    found = read_all(endless(), pool, budget)
    held = [outcome.n_bytes for outcome in islice(found, 30) if outcome]
    assert taken <= 300
    assert budget.peak_bytes <= budget.n_bytes
    assert held
    found.close()
    assert budget.giving_up.is_set()
    assert_works(pool, tmp_path)


def test_reading_waits_until_there_is_memory_again(pool: ParserPool, tmp_path: Path) -> None:
    items = [an_item(tmp_path / f"{i}.txt", f"Words {i}. " * 2_000) for i in range(40)]
    budget = a_budget(n_bytes=2**20)
    found = read_all(items, pool, budget)
    held: list[int] = []
    for outcome in found:
        if outcome is not None:
            held.append(outcome.n_bytes)
        elif held:
            break
    assert 0 < len(held) < len(items) / 2, "it did not wait"
    assert sum(held) <= budget.n_bytes
    for n_bytes in held:
        budget.release(n_bytes)
    n_rest = 0
    for outcome in found:
        if outcome is not None:
            budget.release(outcome.n_bytes)
            n_rest += 1
    assert len(held) + n_rest == len(items)
    assert budget.peak_bytes <= budget.n_bytes


def test_a_document_larger_than_all_memory_goes_alone(pool: ParserPool, tmp_path: Path) -> None:
    large = [an_item(tmp_path / f"{i}.txt", f"Words {i}. " * 20_000) for i in range(3)]
    budget = a_budget(n_bytes=2**20)
    found = [(outcome.item, outcome.n_bytes) for outcome in outcomes(pool, large, budget)]
    assert [item for item, _ in found] == large
    assert min(n_bytes for _, n_bytes in found) > budget.n_bytes
    assert budget.peak_bytes < 2 * budget.bytes_of_file(large[0].size)


def test_large_answers_do_not_block_the_pipes(tmp_path: Path) -> None:
    text = "".join(f"Sentence number {i} says something about the store. " for i in range(200_000))
    items = [an_item(tmp_path / f"{i}.txt", text) for i in range(4)]
    with a_pool(n_children=2) as pool:
        for outcome in outcomes(pool, items):
            document = outcome.result
            assert isinstance(document, ParsedDocument)
            assert document.n_chars == len(text)
            assert document.chunks[-1].end_char == len(text.rstrip())


def test_a_library_that_prints_does_not_disturb_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "pypdfium2"
    library.mkdir()
    (library / "raw.py").write_text("def __getattr__(name): return 0\n")
    (library / "__init__.py").write_text(
        "import os\n"
        "class PdfiumError(Exception): pass\n"
        "def PdfDocument(data):\n"
        "    print('noise', flush=True); os.write(1, b'noise'); os.write(2, b'noise'); os.read(0, 10)\n"
        "    raise PdfiumError('as expected')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with a_pool() as pool, pytest.raises(ParseError, match="damaged") as raised:
        pool.parse(an_item(tmp_path / "a.pdf", b"%PDF-1.4 %%EOF"))
    assert raised.value.facts["reason"] == "as expected"


def test_a_child_that_cannot_start_is_no_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "selectolax.py").write_text("raise ImportError('selectolax is broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with a_pool() as pool, pytest.raises(RagstoreError, match="selectolax is broken") as raised:
        pool.parse(an_item(tmp_path / "a.txt"))
    assert not isinstance(raised.value, ContentError)


def test_a_child_knows_no_passwords_and_imports_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orjson.py").write_text("raise ImportError('imported from the working folder')")
    monkeypatch.setenv("RAGSTORE_POSTGRES_URL", "postgresql://u:secret@h/d")
    monkeypatch.chdir(tmp_path)
    with a_pool() as pool:
        assert_works(pool, tmp_path)
        (child,) = children()
        assert "secret" not in str(child.environ())


def test_a_child_can_neither_write_files_nor_start_processes_nor_leave_its_memory_behind(
    pool: ParserPool, tmp_path: Path
) -> None:
    assert_works(pool, tmp_path)
    (child,) = children()
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_child_reads_only_below_the_named_folders_though_it_is_asked_for_more(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    secret = an_item(tmp_path / "secret.txt", "swordfish")
    (tmp_path / "docs" / "a.txt").symlink_to(secret.source_uri)
    bounds = Bounds.of([tmp_path / "docs"])
    with ParserPool(chunking=CHUNKING, bounds=bounds, timeout_s=60, memory_mb=2000) as pool:
        for path in (tmp_path / "docs" / "a.txt", tmp_path / "secret.txt"):
            with pytest.raises(UnreadableError, match="leads out of the named folders"):
                pool.parse(SourceItem(str(path), str(path), 9))
            with pytest.raises(UnreadableError, match="leads out of the named folders"):
                pool.hash_only(SourceItem(str(path), str(path), 9))
        assert_works(pool, tmp_path / "docs")


def test_a_child_can_open_neither_secrets_nor_other_documents(tmp_path: Path) -> None:
    secret = an_item(tmp_path / "secrets.json", "swordfish")
    script = (
        "import os, sys\n"
        "from ragstore.ingest.parse_child import see_little\n"
        "inherited = os.open(sys.argv[1], os.O_RDONLY)\n"
        "if not see_little(): sys.exit(3)\n"
        "assert os.read(inherited, 9) == b'swordfish'\n"
        "import encodings.cp1252, wave\n"
        "for path, flags in ((sys.argv[1], os.O_RDONLY), (sys.argv[1] + '.new', os.O_WRONLY | os.O_CREAT),\n"
        "                    ('/etc/passwd', os.O_RDONLY), ('/proc/self/environ', os.O_RDONLY)):\n"
        "    try: os.open(path, flags)\n"
        "    except PermissionError: continue\n"
        "    sys.exit(f'{path} could be opened')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, secret.source_uri], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 3:
        pytest.skip("this kernel has no Landlock")
    assert done.returncode == 0, done.stderr
