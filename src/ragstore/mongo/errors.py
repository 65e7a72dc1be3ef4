"""Translation of pymongo's and bson's errors into ragstore's, by class and server code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from ragstore.errors import StoreError, StoreFullError, StoreSetupError, StoreUnavailableError, closed

_LOGIN_CODES = {18, 8000}  # AuthenticationFailed, AtlasError
_UNAUTHORIZED = 13
_FULL_CODES = {14031}  # OutOfDiskSpace
# A server that stops, steps down, starts or is cut off; 211: the keys of its cluster time are not loaded yet.
_UNAVAILABLE_CODES = {
    6, 7, 26, 50, 64, 89, 91, 134, 189, 202, 211, 262, 9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436,
}  # fmt: skip
_NO_REPLICA_SET_CODES = {76, 94, 123}  # NoReplicationEnabled, NotYetInitialized, NotAReplicaSet
_DUPLICATE_KEY = 11000
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError")

# Text that pymongo adds after the reason: time-outs, the topology, the server's whole answer.
_APPENDIX = re.compile(r",? \(configured timeouts: |, Timeout: |, full error: ")
_TLS_TEXTS = ("SSL handshake failed", "CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "[SSL:")
_HOST_TEXTS = ("Name or service not known", "nodename nor servname", "Temporary failure in name resolution",
               "No address associated with hostname")  # fmt: skip
_NONE_OF_THE_SET = "No replica set members available"
_AFTER_CLOSE = "after close"
_NONE_YET = "No replica set members found yet"

_HINT_REPLICA_SET = (
    "MongoDB must be a replica set, one member is enough: start mongod with --replSet, run rs.initiate()"
)
_HINT_STATUS = (
    "see 'ragstore status', and MongoDB's own log where it does not start: a full disk ends it; "
    "nothing is lost, run the same command again when MongoDB answers"
)
_HINT_SETUP = "check RAGSTORE_MONGO_URL with 'ragstore status --settings'"
_HINT_LOGIN = (
    "check user and password in RAGSTORE_MONGO_URL with 'ragstore status --settings'; a user of the database admin "
    "needs authSource=admin where the URL names another database"
)
_HINT_RIGHTS = "give the user of RAGSTORE_MONGO_URL the role readWrite on the database RAGSTORE_MONGO_DATABASE"
_HINT_HOST = "the host in the URL is not known: check RAGSTORE_MONGO_URL with 'ragstore status --settings'"
HINT_TLS = (
    "correct tls, tlsCAFile and the host name in RAGSTORE_MONGO_URL (tls=true only where the server has TLS), see "
    "'ragstore status --settings'"
)


def translated(error: PyMongoError | BSONError) -> StoreError:
    """The StoreError for a driver's error, with its ``retry``; ``facts`` has the server's codes."""
    reason = _reason(error)
    message = f"MongoDB: {(reason or type(error).__name__)[:300]}"
    codes = _codes(error)
    if codes & _FULL_CODES:
        return StoreFullError(message, hint="free disk space on the MongoDB server, then run the same again")
    lasting = _lasting(error, codes, reason)
    if lasting is not None:
        return StoreSetupError(message, hint=lasting, server_codes=sorted(codes))
    if codes & _UNAVAILABLE_CODES or isinstance(error, (ConnectionFailure, WTimeoutError)) or _passes(error):
        hint = _HINT_HOST if any(known in reason for known in _HOST_TEXTS) else _HINT_STATUS
        return StoreUnavailableError(message, hint=hint, server_codes=sorted(codes))
    return StoreError(message, server_codes=sorted(codes))


def _lasting(error: Exception, codes: set[int], reason: str) -> str | None:
    """The hint for an error that needs a change of the setup; None for one that may pass."""
    known = (
        (codes & _NO_REPLICA_SET_CODES or reason.startswith(_NONE_OF_THE_SET), _HINT_REPLICA_SET),
        (codes & _LOGIN_CODES, _HINT_LOGIN),
        (_UNAUTHORIZED in codes, _HINT_RIGHTS),
        (any(text in reason for text in _TLS_TEXTS), HINT_TLS),
        (isinstance(error, (ConfigurationError, InvalidURI)), _HINT_SETUP),
    )
    return next((hint for holds, hint in known if holds), None)


def _codes(error: Exception) -> set[int]:
    """The server's codes; for a bulk write these are in its parts, and its own code only says that there are some."""
    if not isinstance(error, OperationFailure):
        return set()
    return {code for code in (error.code, *(part.get("code") for part in _parts(error))) if code is not None}


def _passes(error: Exception) -> bool:
    return isinstance(error, PyMongoError) and any(error.has_error_label(label) for label in _PASSING_LABELS)


def _reason(error: Exception) -> str:
    parts = _parts(error) if isinstance(error, BulkWriteError) else []
    text = str(parts[0].get("errmsg", "")) if parts else str(error)
    reason = _APPENDIX.split(" ".join(text.split()))[0]
    return "none of the servers that the URL names answered in time" if reason == _NONE_YET else reason


def _parts(error: OperationFailure) -> list[Mapping[str, Any]]:
    details = error.details or {}
    parts = [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]
    return [part for part in parts if part.get("code") != _DUPLICATE_KEY]


@contextmanager
def translation() -> Iterator[None]:
    """Raise ragstore's errors instead of pymongo's."""
    try:
        yield
    except (PyMongoError, BSONError) as error:  # BSONError: a value cannot be encoded
        if isinstance(error, InvalidOperation) and _AFTER_CLOSE in str(error):
            raise closed() from error
        raise translated(error) from error


def no_replica_set(
    reason: str = "the server is not a member of a replica set", *, hint: str = _HINT_REPLICA_SET
) -> StoreSetupError:
    """The error for a server without a replica set: when killed it would lose acknowledged writes."""
    return StoreSetupError(f"MongoDB: {reason}", hint=hint)
