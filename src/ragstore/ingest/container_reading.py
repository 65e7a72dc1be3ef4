"""The reading of one container: which members it has, which of them are stored, and which it no longer has."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ragstore.errors import ContentError, RagstoreError
from ragstore.ingest.parse_child import member_key
from ragstore.model.chunk import ParsedDocument
from ragstore.model.document import IN_CONTAINER, SourceItem, SourceState

Emit = Callable[["ContainerReading", SourceItem, "ParsedDocument | ContentError"], bool]


class ContainerReading:
    """Members of one container, from the child that reads them to the stores; used from several threads.

    The container's own document is stored after all of its members, and what it no longer has is deleted with it in one
    transaction. So an ingest that was cut off reads it again, and nothing is deleted because a reading was cut off.

    Args:
        item: the container.
        look_up: its live members in the ledger.
        is_current: whether a member was made with the present chunking and readers.
        emit: hands a member on; waits for room; False if the ingest gives up.
        unchanged: is told of members that are as the ledger has them.

    Attributes:
        is_container: whether the child has listed it as one.
        failed: ids of members that could not be read.
    """

    def __init__(
        self,
        item: SourceItem,
        *,
        look_up: Callable[[SourceItem], dict[str, SourceState]],
        is_current: Callable[[SourceState], bool],
        emit: Emit,
        unchanged: Callable[[SourceItem], None],
    ) -> None:
        self.item = item
        self.is_container = False
        self.failed: set[str] = set()
        self._look_up = look_up
        self._is_current = is_current
        self._emit = emit
        self._unchanged = unchanged
        self._before: dict[str, SourceState] = {}
        self._seen: set[str] = set()
        self._same: set[str] = set()
        self._lock = threading.Lock()
        self._n_open = 0

    @property
    def n_open(self) -> int:
        """Members that were read and are not yet stored or set aside."""
        with self._lock:
            return self._n_open

    def done(self, n_members: int) -> None:
        """Count members that were stored or set aside."""
        with self._lock:
            self._n_open -= n_members

    def known(self) -> list[str]:
        """As ``Members.known``."""
        # A child that died is replaced by another, which asks again.
        if not self.is_container:
            self.is_container = True
            self._before = self._look_up(self.item)
        return [
            member_key(document_id, state.content_hash)
            for document_id, state in self._before.items()
            if state.content_hash is not None and self._is_current(state)
        ]

    def add(self, member: SourceItem, container_id: str, read: ParsedDocument | ContentError | None) -> None:
        """As ``Members.add``."""
        self._seen.add(member.document_id)
        if read is None:
            self._same.add(member.document_id)
            self._unchanged(member)
            return
        if isinstance(read, ContentError):
            self.failed.add(member.document_id)
        elif container_id:
            read.metadata["container"] = container_id
        with self._lock:
            self._n_open += 1
        if not self._emit(self, member, read):
            raise RagstoreError("the ingest was given up", hint="run the same command again")

    def vanished(self) -> dict[str, int]:
        """Members that the container no longer has, with the revisions at which the ledger has them."""
        return {i: state.revision for i, state in self._before.items() if self._is_gone(i)}

    def _is_gone(self, document_id: str) -> bool:
        # What lay in a nested container that cannot be read now is not gone.
        above = tuple(f"{each}{IN_CONTAINER}" for each in self.failed)
        return document_id not in self._seen and not (above and document_id.startswith(above))

    def lost(self, now: dict[str, SourceState]) -> str | None:
        """A member that was left as it is because it was unchanged, and that another worker has deleted meanwhile."""
        return next((document_id for document_id in sorted(self._same) if document_id not in now), None)

    def is_well(self, document_id: str) -> bool:
        """Whether a member need not be in quarantine: it is gone, or as the ledger has it."""
        return document_id in self._same or self._is_gone(document_id)
