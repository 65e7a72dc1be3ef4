"""Public API of ragstore: production storage for LlamaIndex on PostgreSQL + pgvector and MongoDB.

Two databases, one atomic index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragstore import errors
from ragstore.errors import (
    ClosedError,
    CollectionBusyError,
    CollectionNotFoundError,
    ContentError,
    DocumentNotFoundError,
    EmbeddedServerError,
    EmbeddingSpaceError,
    EmptyStoreError,
    FilterError,
    InvalidNodeError,
    LeaseLostError,
    LimitExceededError,
    MassDeletionError,
    ModelError,
    ModelMissingError,
    ModelUnavailableError,
    NotFoundError,
    ParseError,
    PathNotFoundError,
    ProtocolError,
    RagstoreError,
    RefusedError,
    Retry,
    SchemaVersionError,
    SettingsError,
    StoreError,
    StoreFullError,
    StoreSetupError,
    StoreUnavailableError,
    TransferError,
    UnreadableError,
    UnsupportedTypeError,
    UsageError,
)

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.app.transfer import PlainStack
    from ragstore.model.filters import Condition, Group
    from ragstore.model.hit import Hit, Hits
    from ragstore.model.report import IngestReport, TransferReport
    from ragstore.query.answer import Answer
    from ragstore.query.show import DocumentText
    from ragstore.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ClosedError",
    "CollectionBusyError",
    "CollectionNotFoundError",
    "Condition",
    "ContentError",
    "DocumentNotFoundError",
    "DocumentText",
    "EmbeddedServerError",
    "EmbeddingSpaceError",
    "EmptyStoreError",
    "FilterError",
    "Group",
    "Hit",
    "Hits",
    "IngestReport",
    "InvalidNodeError",
    "LeaseLostError",
    "LimitExceededError",
    "MassDeletionError",
    "ModelError",
    "ModelMissingError",
    "ModelUnavailableError",
    "NotFoundError",
    "ParseError",
    "PathNotFoundError",
    "PlainStack",
    "ProtocolError",
    "Ragstore",
    "RagstoreError",
    "RefusedError",
    "Retry",
    "SchemaVersionError",
    "Settings",
    "SettingsError",
    "StoreError",
    "StoreFullError",
    "StoreSetupError",
    "StoreUnavailableError",
    "TransferError",
    "TransferReport",
    "UnreadableError",
    "UnsupportedTypeError",
    "UsageError",
    "__version__",
    "errors",
    "open",
]

_HOMES = {
    "Answer": "ragstore.query.answer",
    "Condition": "ragstore.model.filters",
    "DocumentText": "ragstore.query.show",
    "Group": "ragstore.model.filters",
    "Hit": "ragstore.model.hit",
    "Hits": "ragstore.model.hit",
    "IngestReport": "ragstore.model.report",
    "PlainStack": "ragstore.app.transfer",
    "Ragstore": "ragstore.app",
    "Settings": "ragstore.settings",
    "TransferReport": "ragstore.model.report",
}


def open(settings: Settings | None = None) -> Ragstore:  # noqa: A001 - ragstore.open() is how one says it
    """Open the stores; use it as a context manager.

    Args:
        settings: None reads them from the environment and the configuration files.

    Raises:
        SettingsError: an option's value cannot be used.
        StoreError: a database cannot be reached or used.
        SchemaVersionError: a database is older or newer than this program.
    """
    from ragstore.app import open_ragstore

    return open_ragstore(settings)


def __getattr__(name: str) -> Any:
    # Names are imported when they are first used, so that the command line starts quickly.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ragstore' has no attribute {name!r}")
