"""Tree of all deliberate errors of ragstore, and hints that several of them share.

::

    RagstoreError
    ├── UsageError                  the call itself is wrong                          exit 2
    │   ├── SettingsError           an option's value cannot be used
    │   ├── FilterError             a metadata filter cannot be understood
    │   ├── ClosedError             the store was closed
    │   └── NotFoundError           the call is correct, its target does not exist    exit 6
    │       ├── CollectionNotFoundError  no collection of that name
    │       ├── DocumentNotFoundError    no such document
    │       └── PathNotFoundError        no such file or folder
    ├── RefusedError                understood, and not done, to protect data         exit 4
    │   ├── MassDeletionError       a sync would delete more than is likely to be meant
    │   ├── EmbeddingSpaceError     collection was made with another model or dim
    │   ├── SchemaVersionError      databases are older or newer than this program
    │   ├── EmptyStoreError         the stores do not belong together or were emptied
    │   └── RestoredStoreError      one store was restored to another moment than the other
    ├── StoreError                  a database did not do what it was asked           exit 1
    │   ├── StoreUnavailableError   unreachable, restarting, or the connection broke
    │   ├── StoreBusyError          another transaction was in the way
    │   ├── StoreConflictError      another writer was first to write the same
    │   ├── StoreSetupError         reachable, but wrong password, database, extension …
    │   │   └── MissingTableError   a table is not there: dropped, replaced or lost
    │   └── StoreFullError          no disk space left
    ├── ProtocolError               a run cannot go on                                exit 1
    │   ├── LeaseLostError          another process recovered the run
    │   ├── EpochEndedError         a reconciliation has begun a new epoch
    │   └── CollectionBusyError     others use a collection that is to be dropped
    ├── ContentError                one document cannot become nodes → quarantine     exit 3
    │   ├── UnreadableError         the bytes cannot be read
    │   ├── UnsupportedTypeError    no reader for such a file
    │   ├── ParseError              the reader failed on the bytes
    │   ├── LossError               text may be missing or wrong, which a strict ingest does not take
    │   ├── LimitExceededError      took too long, too much memory, or is too large
    │   └── InvalidNodeError        a node that one of the stores would refuse
    ├── ModelError                  the embedding model or the LLM failed             exit 1
    │   ├── ModelUnavailableError   unreachable, overloaded, rate limited
    │   └── ModelMissingError       its package or its files are not installed
    ├── TransferError               the data to import is damaged                     exit 1
    ├── BackupError                 a target of backups did not do what it was asked  exit 1
    │   ├── BackupLostError         a part of a backup is missing or damaged
    │   └── BackupKeyError          a backup is encrypted with a key that was not given
    ├── ForeignStoreError           a store of another system cannot be read          exit 1
    └── EmbeddedServerError         an embedded server cannot run here                exit 1

``retry`` says when to try again: NEVER (the same input fails the same way), LATER (the cause passes
by itself), AFTER_REPAIR (a person must act first). A worker ends at an error with NEVER, but continues
after any ContentError; after a MassDeletionError, it waits for its next round as after a success.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Retry(StrEnum):
    """When it makes sense to try the same thing again."""

    NEVER = "never"
    LATER = "later"
    AFTER_REPAIR = "after_repair"


class RagstoreError(Exception):
    """Base of all deliberate errors.

    Args:
        message: lower-case, no full stop, names the object concerned.
        hint: one sentence that names the option or the command to use next, as the command line says it.
        in_python: the hint for Python code, if it differs from ``hint``; ``str`` of an error ends with it.
        facts: what happened, as data; they are kept in the attribute ``facts``.
    """

    code = "ragstore"
    retry = Retry.NEVER
    exit_status = 1

    def __init__(self, message: str, *, hint: str = "", in_python: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.in_python = in_python or hint.replace("run the same command again", "make the same call again")
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} ({self.in_python})" if self.in_python else self.message


class UsageError(RagstoreError):
    """The call itself is wrong."""

    code = "usage"
    exit_status = 2


class SettingsError(UsageError):
    """An option's value cannot be used; ``facts`` has option, value and the places looked at."""

    code = "settings.invalid"


class FilterError(UsageError):
    """A metadata filter cannot be understood."""

    code = "filter.invalid"


class ClosedError(UsageError):
    """The store that this belongs to was closed."""

    code = "store.closed"


class NotFoundError(UsageError):
    """The call is correct, but what it names does not exist."""

    code = "not_found"
    exit_status = 6


class CollectionNotFoundError(NotFoundError):
    """No collection of that name."""

    code = "collection.not_found"


class PathNotFoundError(NotFoundError):
    """No file or folder of that name."""

    code = "path.not_found"


class DocumentNotFoundError(NotFoundError):
    """No document of that id in the collection or place that was searched."""

    code = "document.not_found"


class RefusedError(RagstoreError):
    """The request was understood but not carried out, to protect data."""

    code = "refused"
    retry = Retry.AFTER_REPAIR
    exit_status = 4


class MassDeletionError(RefusedError):
    """A sync would delete suspiciously many documents; ``facts`` has the numbers and what was done before."""

    code = "refused.mass_deletion"


class EmbeddingSpaceError(RefusedError):
    """The collection was made with another model, ``dim`` or ``vector_type``; the message names both values."""

    code = "collection.embedding_space"


class SchemaVersionError(RefusedError):
    """The databases are older or newer than this program."""

    code = "schema.version"


class EmptyStoreError(RefusedError):
    """The stores do not belong together, or one of them was emptied."""

    code = "store.empty"


class RestoredStoreError(RefusedError):
    """One store was restored to another moment than the other; ``facts`` has which, and both epochs."""

    code = "store.restored"


class StoreError(RagstoreError):
    """A database did not do what it was asked."""

    code = "store"


class StoreUnavailableError(StoreError):
    """A database is unreachable, restarting, or broke the connection."""

    code = "store.unavailable"
    retry = Retry.LATER


class StoreBusyError(StoreError):
    """Another transaction was in the way: a deadlock, a serialisation failure, or a time-out for a lock."""

    code = "store.busy"
    retry = Retry.LATER


class StoreConflictError(StoreError):
    """Another writer was first to write a row that may exist only once."""


class StoreSetupError(StoreError):
    """Reachable, but not usable: wrong password, wrong database, missing extension, no replica set."""

    code = "store.setup"
    retry = Retry.AFTER_REPAIR


class MissingTableError(StoreSetupError):
    """A table does not exist: it was dropped, replaced by another, or lost."""


class StoreFullError(StoreError):
    """A database has no disk space left."""

    code = "store.full"
    retry = Retry.AFTER_REPAIR


class ProtocolError(RagstoreError):
    """A run cannot continue."""

    code = "run"


class LeaseLostError(ProtocolError):
    """Another process recovered the run; nothing was published."""

    code = "run.lease_lost"
    retry = Retry.LATER


class EpochEndedError(ProtocolError):
    """A reconciliation began a new epoch; what was read before it must be read again. Nothing was written."""

    code = "run.epoch_ended"
    retry = Retry.LATER


class CollectionBusyError(ProtocolError):
    """Other processes still write to, or read from, a collection that is to be dropped."""

    code = "collection.busy"
    retry = Retry.LATER


class ContentError(RagstoreError):
    """One document cannot become nodes; it is put into quarantine, and the others are processed."""

    code = "content"
    exit_status = 3


class UnreadableError(ContentError):
    """The bytes of the document cannot be read."""

    code = "content.unreadable"
    retry = Retry.LATER


class UnsupportedTypeError(ContentError):
    """There is no reader for such a file, or its bytes are not what its name says."""

    code = "content.unsupported_type"


class ParseError(ContentError):
    """The reader failed on the bytes."""

    code = "content.parse"


class LossError(ContentError):
    """Text of a document may be missing or wrong, and the ingest is strict."""

    code = "content.loss"


class LimitExceededError(ContentError):
    """Reading took too long or too much memory, or the document is too large."""

    code = "content.limit"


class InvalidNodeError(ContentError):
    """One of the two stores would refuse the node, so neither gets it."""

    code = "content.invalid_node"


class ModelError(RagstoreError):
    """The embedding model or the LLM failed."""

    code = "model"


class ModelUnavailableError(ModelError):
    """Unreachable, overloaded or rate limited."""

    code = "model.unavailable"
    retry = Retry.LATER


class ModelMissingError(ModelError):
    """The model's package or files are not installed."""

    code = "model.missing"
    retry = Retry.AFTER_REPAIR


class TransferError(RagstoreError):
    """The data to import is damaged; ``facts`` has file and byte offset."""

    code = "transfer.damaged"
    retry = Retry.AFTER_REPAIR


class BackupError(RagstoreError):
    """A target of backups cannot be read or written; nothing that it has was changed."""

    code = "backup.unusable"
    retry = Retry.LATER


class BackupLostError(BackupError):
    """A part of a backup is missing or damaged; ``facts`` has name and what."""

    code = "backup.lost"
    retry = Retry.AFTER_REPAIR


class BackupKeyError(BackupError):
    """A backup is encrypted, and its key was not given."""

    code = "backup.key"
    retry = Retry.NEVER


class ForeignStoreError(RagstoreError):
    """A store of another system, from which data move in, cannot be reached or read; ``facts`` has its address."""

    code = "transfer.source"
    retry = Retry.LATER


class EmbeddedServerError(RagstoreError):
    """An embedded server cannot run on this machine."""

    code = "embedded"
    retry = Retry.AFTER_REPAIR


def as_owner(arguments: str, role: str) -> str:
    """Hint for a command that only the role that owns the tables may run."""
    return (
        f"run 'ragstore {arguments}' with RAGSTORE_POSTGRES_URL of the role {role}; "
        f"in the stack: 'docker compose run --rm maintain {arguments}'"
    )


def not_installed(extra: str) -> str:
    """Hint to install a package that belongs to an extra of ragstore."""
    return (
        f"run: pip install 'ragstore[{extra}]'; in the stack, name the extra in stack/app/Dockerfile and build "
        "the image"
    )


def closed() -> ClosedError:
    """The error when a closed store, or an object that belongs to it, is used."""
    return ClosedError(
        "the store is closed", hint="open it again with ragstore.open(); what came from it closes with it"
    )
