"""What readers see of a document while LlamaIndex updates it, which it does by deleting and writing anew."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, TransformComponent
from pymongo.database import Database

from ragstore.llama.writer import CollectionWriter
from tests.support.internals import failpoints_watched
from tests.support.kills import passes
from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter, faces_on
from tests.support.servers import Servers

N = 6
Update = Callable[[Faces, list[Document], list[TransformComponent]], None]


@pytest.fixture
def faces(test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]) -> Iterator[Faces]:
    with faces_on(postgres_database, test_servers.mongo_url, mongo_database.name) as opened:
        # What the faces know of a collection lasts as long as one of them, here as in a process that lives long.
        kept = opened.context()
        yield opened
        del kept


def a_plain_index(faces: Faces, steps: Sequence[TransformComponent], **kwargs: Any) -> VectorStoreIndex:
    """Of LlamaIndex's own class; the last step embeds."""
    *cutting, model = steps
    assert isinstance(model, BaseEmbedding)
    index = VectorStoreIndex.from_documents(
        [], storage_context=faces.context(), embed_model=model, transformations=cutting, **kwargs
    )
    assert type(index) is VectorStoreIndex
    return index


def update(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    index = a_plain_index(faces, steps)
    for document in documents:
        index.update_ref_doc(document)


def aupdate(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    index = a_plain_index(faces, steps)

    async def work() -> None:
        await asyncio.gather(*(index.aupdate_ref_doc(document) for document in documents))

    asyncio.run(work())


def refresh(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    a_plain_index(faces, steps).refresh_ref_docs(documents)


def refresh_in_batches(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    a_plain_index(faces, steps, insert_batch_size=4).refresh_ref_docs(documents)


def refresh_with_bodies(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    a_plain_index(faces, steps, store_nodes_override=True).refresh_ref_docs(documents)


def arefresh(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    asyncio.run(a_plain_index(faces, steps).arefresh_ref_docs(documents))


def a_pipeline(faces: Faces, steps: Sequence[TransformComponent], strategy: DocstoreStrategy) -> IngestionPipeline:
    context = faces.context()
    return IngestionPipeline(
        transformations=list(steps),
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=strategy,
        disable_cache=True,
    )


def upsert(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    a_pipeline(faces, steps, DocstoreStrategy.UPSERTS).run(documents=documents)


def aupsert(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    asyncio.run(a_pipeline(faces, steps, DocstoreStrategy.UPSERTS).arun(documents=documents))


def upsert_and_delete(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    a_pipeline(faces, steps, DocstoreStrategy.UPSERTS_AND_DELETE).run(documents=documents)


UPDATES: list[Update] = [
    update,
    aupdate,
    refresh,
    refresh_in_batches,
    refresh_with_bodies,
    arefresh,
    upsert,
    aupsert,
    upsert_and_delete,
]
EACH_UPDATE = pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.__name__)


class Looking(HashEmbedding):
    """Calls back before each text it embeds."""

    look: Callable[[], None]

    def _get_text_embedding(self, text: str) -> list[float]:
        self.look()
        return super()._get_text_embedding(text)


class Broken(TransformComponent):
    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        raise ConnectionError("no model")


class Keeping(TransformComponent):
    """Lets the first nodes through."""

    n: int

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        return nodes[: self.n]


def texts_of(document: Document) -> Counter[str]:
    return Counter(node.get_content() for node in a_splitter().get_nodes_from_documents([document]))


@EACH_UPDATE
def test_the_old_version_answers_until_all_of_the_new_one_does(faces: Faces, update: Update) -> None:
    old, new = ([a_document(name, version, N) for name in "ab"] for version in (1, 2))
    update(faces, old, [a_splitter(), HashEmbedding()])
    seen: list[str] = []

    def look() -> None:
        for before, after in zip(old, new, strict=True):
            shown = faces.texts_of(before.id_)
            assert shown in (texts_of(before), texts_of(after)), f"{before.id_} is not one version"
            seen.append("old" if shown == texts_of(before) else "new")

    update(faces, new, [a_splitter(), Looking(look=look)])
    assert seen.count("old") >= 2 * N
    faces.assert_holds(*new)


@EACH_UPDATE
def test_an_update_that_fails_leaves_the_old_version_and_is_done_by_the_next(faces: Faces, update: Update) -> None:
    old, new = ([a_document(name, version, N) for name in "ab"] for version in (1, 2))
    update(faces, old, [a_splitter(), HashEmbedding()])

    def fail() -> None:
        raise ConnectionError("no model")

    for documents in (new, new, old, new):
        try:
            update(faces, documents, [a_splitter(), Looking(look=fail)])
        except ConnectionError:
            assert documents == new or update.__name__ in ("update", "aupdate")
        faces.assert_holds(*old)
    # What the failed ones had begun is nothing to the next, of whatever kind.
    faces.index().insert(a_document("c"))
    faces.index().insert(new[0])
    update(faces, [*new, a_document("c")], [a_splitter(), HashEmbedding()])
    faces.assert_holds(*new, a_document("c"))


@EACH_UPDATE
def test_a_new_version_without_nodes_leaves_none_of_the_old_one(faces: Faces, update: Update) -> None:
    update(faces, [a_document("a"), a_document("b")], [a_splitter(), HashEmbedding()])
    update(faces, [a_document("a", 2), a_document("b")], [a_splitter(), Keeping(n=0), HashEmbedding()])
    assert faces.texts_of("a") == {}
    faces.assert_agree()
    update(faces, [a_document("a", 3), a_document("b")], [a_splitter(), HashEmbedding()])
    faces.assert_holds(a_document("a", 3), a_document("b"))


@EACH_UPDATE
def test_a_version_without_nodes_leaves_none_of_one_without_a_hash(faces: Faces, update: Update) -> None:
    nodes = a_splitter().get_nodes_from_documents([a_document("a")])
    for node in nodes:
        node.embedding = HashEmbedding().get_text_embedding(node.get_content())
    faces.context().vector_store.add(nodes)
    assert len(faces.texts_of("a")) == N and faces.hashes() == {"a": None}
    update(faces, [a_document("a", 2), a_document("b")], [a_splitter(), Keeping(n=0), HashEmbedding()])
    assert faces.texts_of("a") == {}
    faces.assert_agree()


@EACH_UPDATE
def test_a_new_version_whose_last_nodes_are_dropped_on_the_way_is_written(faces: Faces, update: Update) -> None:
    update(faces, [a_document("a")], [a_splitter(), HashEmbedding()])
    changed = a_document("a", 2)
    update(faces, [changed], [a_splitter(), Keeping(n=2), HashEmbedding()])
    assert sorted(faces.texts_of("a")) == sorted(texts_of(changed))[:2]
    faces.assert_agree()
    assert faces.hashes() == {"a": changed.hash}


def test_a_document_whose_new_nodes_a_transformation_drops_is_gone(faces: Faces) -> None:
    upsert(faces, [a_document("a"), a_document("b")], [a_splitter(), HashEmbedding()])
    nodes = a_splitter().get_nodes_from_documents([a_document("a", 2)])
    a_pipeline(faces, [Keeping(n=0), HashEmbedding()], DocstoreStrategy.UPSERTS).run(nodes=nodes, store_doc_text=False)
    faces.assert_holds(a_document("b"))


def test_parents_and_the_document_itself_go_with_the_version_they_belong_to(faces: Faces) -> None:
    a_pipeline(faces, [a_splitter(), HashEmbedding()], DocstoreStrategy.UPSERTS).run(documents=[a_document("a")])
    docstore = faces.context().docstore
    assert docstore.get_document("a") == a_document("a")
    pipeline = a_pipeline(faces, [a_splitter(), HashEmbedding()], DocstoreStrategy.UPSERTS)
    pipeline.run(documents=[a_document("a", 2)], store_doc_text=False)
    assert docstore.get_document("a", raise_error=False) is None
    faces.assert_holds(a_document("a", 2))


def test_a_document_that_a_transformation_deletes_is_gone(faces: Faces) -> None:
    class Deleting(TransformComponent):
        def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
            context = faces.context()
            context.vector_store.delete("b")
            context.docstore.delete_ref_doc("c", raise_error=False)
            assert set(faces.hashes()) == {"a", "d"}
            return nodes

    def refresh_loaded(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
        index = load_index_from_storage(faces.context(), embed_model=HashEmbedding(), transformations=steps[:-1])
        index.refresh_ref_docs(documents)

    for each in (upsert, refresh_loaded):
        each(faces, [a_document(name) for name in "abcd"], [a_splitter(), HashEmbedding()])
        each(faces, [a_document("a", 2)], [Deleting(), a_splitter(), HashEmbedding()])
        faces.assert_holds(a_document("a", 2), a_document("d"))
        faces.context().vector_store.clear()


# What failed, and is done again by the same process


def insert(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    index = a_plain_index(faces, steps, insert_batch_size=4)
    for document in documents:
        index.insert(document)


def ainsert(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    index = a_plain_index(faces, steps, insert_batch_size=4, use_async=True)

    async def work() -> None:
        for document in documents:
            await index.ainsert(document)

    asyncio.run(work())


def insert_with_bodies(faces: Faces, documents: list[Document], steps: list[TransformComponent]) -> None:
    index = a_plain_index(faces, steps, insert_batch_size=4, store_nodes_override=True)
    for document in documents:
        index.insert(document)


WRITES: list[Update] = [insert, ainsert, insert_with_bodies, refresh, arefresh, upsert, aupsert, upsert_and_delete]
EACH_WRITE = pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
SAYING_A_HASH = ["set_hash", "set_hashes"]


@EACH_WRITE
def test_a_document_whose_hash_could_not_be_told_is_not_doubled_by_the_next_try(
    faces: Faces, write: Update, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no server")

    with monkeypatch.context() as patched:
        for name in SAYING_A_HASH:
            patched.setattr(CollectionWriter, name, fail)
        with pytest.raises(ConnectionError):
            write(faces, [a_document("a"), a_document("b")], [a_splitter(), HashEmbedding()])
    write(faces, [a_document("a"), a_document("b")], [a_splitter(), HashEmbedding()])
    faces.assert_holds(a_document("a"), a_document("b"))


@EACH_WRITE
def test_a_document_whose_second_half_could_not_be_embedded_is_not_doubled_by_the_next_try(
    faces: Faces, write: Update
) -> None:
    n_embedded = 0

    def fail_at_the_fifth() -> None:
        nonlocal n_embedded
        n_embedded += 1
        if n_embedded == 5:
            raise ConnectionError("no model")

    model = Looking(look=fail_at_the_fifth, embed_batch_size=1)
    with pytest.raises(ConnectionError):
        write(faces, [a_document("a"), a_document("b")], [a_splitter(), model])
    write(faces, [a_document("a"), a_document("b")], [a_splitter(), HashEmbedding()])
    faces.assert_holds(a_document("a"), a_document("b"))


@EACH_WRITE
def test_nodes_that_do_not_know_their_neighbours_are_whole_in_several_batches(faces: Faces, write: Update) -> None:
    splitter = a_splitter()
    splitter.include_prev_next_rel = False
    for version in (1, 2):
        write(faces, [a_document("a", version, 11), a_document("b", version, 11)], [splitter, HashEmbedding()])
        faces.assert_holds(a_document("a", version, 11), a_document("b", version, 11))


def cancelled_at(nth: int, faces: Faces, write: Update, documents: list[Document]) -> bool:
    """Cancel it at the n-th text that it embeds or failpoint that it passes; returns whether there was one."""
    steps = itertools.count(1)
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    was_cancelled = threading.Event()

    def step(_: object = None) -> None:
        if running and next(steps) == nth:
            loop, task = running[-1]
            loop.call_soon_threadsafe(task.cancel)
            was_cancelled.set()

    async def watched(work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(work)
        running.append((asyncio.get_running_loop(), task))
        try:
            return await task
        finally:
            running.pop()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        # Threads that are writing go on to their end, for which asyncio.run waits.
        return run_to_its_end(watched(work))

    run_to_its_end = asyncio.run
    with pytest.MonkeyPatch.context() as patched, failpoints_watched(step), suppress(asyncio.CancelledError):
        patched.setattr(asyncio, "run", run)
        write(faces, documents, [a_splitter(), Looking(look=step)])
    return was_cancelled.is_set()


@pytest.mark.parametrize("write", [ainsert, arefresh, aupsert, aupdate], ids=lambda write: write.__name__)
def test_what_is_cancelled_leaves_whole_versions_and_the_next_try_does_it(faces: Faces, write: Update) -> None:
    old = [a_document(name, 1, 9) for name in "ab"]
    write(faces, old, [a_splitter(), HashEmbedding()])
    for version, nth in enumerate(passes(), start=2):
        new = [a_document(name, version, 9) for name in "ab"]
        was_cancelled = cancelled_at(nth, faces, write, new)
        if write is not ainsert:
            # An insert adds nodes beside those that are there, and lets these go when it has come to its end.
            for before, after in zip(old, new, strict=True):
                assert faces.texts_of(before.id_) in (texts_of(before), texts_of(after)), f"{before.id_} is not whole"
        faces.assert_agree()
        write(faces, new, [a_splitter(), HashEmbedding()])
        faces.assert_holds(*new)
        old = new
        if not was_cancelled:
            break
    assert version > 6
