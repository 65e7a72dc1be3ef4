"""Which trouble of a database passes by itself, which somebody must mend, and which is a document's own."""

from __future__ import annotations

import psycopg2
import pytest
from bson.errors import InvalidDocument
from pymongo import errors as mongo

from ragstore.errors import Retry, StoreError, StoreFullError, StoreSetupError, StoreUnavailableError
from ragstore.mongo.errors import translated as from_mongo
from ragstore.mongo.errors import translation
from ragstore.postgres.errors import translated as from_postgres


def a_bulk_error(*codes: int, concern: int | None = None) -> mongo.BulkWriteError:
    concerns = [{"code": concern, "errmsg": f"concern {concern}"}] if concern else []
    return mongo.BulkWriteError(
        {"writeErrors": [{"code": code, "errmsg": f"write {code}"} for code in codes], "writeConcernErrors": concerns}
    )


def a_label_error(label: str) -> mongo.PyMongoError:
    return mongo.PyMongoError("cut off", error_labels=[label])


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (mongo.AutoReconnect("connection closed"), StoreUnavailableError, Retry.LATER),
        (mongo.OperationFailure("interrupted at shutdown", 11600), StoreUnavailableError, Retry.LATER),
        (mongo.OperationFailure("no keys found for HMAC", 211), StoreUnavailableError, Retry.LATER),
        (a_label_error("RetryableWriteError"), StoreUnavailableError, Retry.LATER),
        (a_bulk_error(11600), StoreUnavailableError, Retry.LATER),
        (a_bulk_error(11000, 91), StoreUnavailableError, Retry.LATER),
        (a_bulk_error(concern=189), StoreUnavailableError, Retry.LATER),
        (a_bulk_error(14031), StoreFullError, Retry.AFTER_REPAIR),
        (a_bulk_error(10334), StoreError, Retry.NEVER),
        (mongo.OperationFailure("Authentication failed.", 18), StoreSetupError, Retry.AFTER_REPAIR),
        (mongo.OperationFailure("not a replica set", 76), StoreSetupError, Retry.AFTER_REPAIR),
        (mongo.InvalidURI("no port"), StoreSetupError, Retry.AFTER_REPAIR),
        (mongo.DocumentTooLarge("too large"), StoreError, Retry.NEVER),
        (InvalidDocument("cannot encode object"), StoreError, Retry.NEVER),
    ],
)
def test_mongo_errors_say_who_may_retry(error: Exception, kind: type[StoreError], retry: Retry) -> None:
    with pytest.raises(StoreError) as raised, translation():
        raise error
    assert (type(raised.value), raised.value.retry) == (kind, retry)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (mongo.OperationFailure("Authentication failed.", 18, {"ok": 0.0, "errmsg": "x"}), "Authentication failed."),
        (
            mongo.ServerSelectionTimeoutError(
                "h:1: refused (configured timeouts: connectTimeoutMS: 1000.0ms), Timeout: 1.0s, Topology Description: <T>"
            ),
            "h:1: refused",
        ),
        (a_bulk_error(11000, 91), "write 91"),
    ],
)
def test_a_message_of_mongo_is_one_short_line(error: mongo.PyMongoError, message: str) -> None:
    assert from_mongo(error).message == f"MongoDB: {message}"


@pytest.mark.parametrize(
    ("error", "kind", "retry"),
    [
        (psycopg2.OperationalError("connection refused"), StoreUnavailableError, Retry.LATER),
        (psycopg2.errors.AdminShutdown("terminating"), StoreUnavailableError, Retry.LATER),
        (
            psycopg2.OperationalError('FATAL: password authentication failed for user "x"'),
            StoreSetupError,
            Retry.AFTER_REPAIR,
        ),
        (psycopg2.ProgrammingError("invalid dsn: no such option"), StoreSetupError, Retry.AFTER_REPAIR),
        (
            psycopg2.OperationalError('FATAL: pg_hba.conf rejects connection for host "h", user "x", no encryption'),
            StoreSetupError,
            Retry.AFTER_REPAIR,
        ),
    ],
)
def test_postgres_errors_say_who_may_retry(error: psycopg2.Error, kind: type[StoreError], retry: Retry) -> None:
    translated = from_postgres(error)
    assert (type(translated), translated.retry) == (kind, retry)


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        ("server does not support SSL, but SSL was required", StoreSetupError, "sslmode"),
        ("SSL error: certificate verify failed", StoreSetupError, "certificates"),
        ('root certificate file "/x" does not exist', StoreSetupError, "certificates"),
        ('invalid sslmode value: "foo"', StoreSetupError, "sslmode"),
        (
            'no pg_hba.conf entry for host "h", user "u", database "d", no encryption',
            StoreSetupError,
            "sslmode=require",
        ),
        ("FATAL:  unsupported startup parameter: options", StoreSetupError, "ignore_startup_parameters"),
        ("fe_sendauth: no password supplied", StoreSetupError, "password"),
        ('FATAL:  role "u" does not exist', StoreSetupError, "user"),
        ('FATAL:  no such user: "u"', StoreSetupError, "user"),
        ('FATAL:  database "d" does not exist', StoreSetupError, "CREATE DATABASE"),
        ("FATAL:  no such database: d", StoreSetupError, "CREATE DATABASE"),
        ('FATAL:  permission denied for database "d"', StoreSetupError, "CONNECT"),
        ('FATAL:  unrecognized configuration parameter "x"', StoreSetupError, "PGOPTIONS"),
        ('definition of service "x" not found', StoreSetupError, "RAGSTORE_POSTGRES_URL"),
        ('could not translate host name "h" to address: Name or service not known', StoreUnavailableError, "host"),
        ("FATAL:  sorry, too many clients already", StoreUnavailableError, "max_connections"),
        ('FATAL:  too many connections for role "u"', StoreUnavailableError, "CONNECTION LIMIT"),
        (
            "FATAL:  remaining connection slots are reserved for roles with SUPERUSER",
            StoreUnavailableError,
            "POOL_SIZE",
        ),
        ("FATAL:  no more connections allowed (max_client_conn)", StoreUnavailableError, "max_client_conn"),
        ("FATAL:  the database system is in recovery mode", StoreUnavailableError, "some seconds"),
        ("session is read-only", StoreUnavailableError, "target_session_attrs"),
        ("SSL connection has been closed unexpectedly", StoreUnavailableError, "ragstore status"),
        ("server closed the connection unexpectedly", StoreUnavailableError, "ragstore status"),
    ],
)
def test_what_libpq_says_without_a_code_gets_the_right_advice(text: str, kind: type[StoreError], advice: str) -> None:
    told = from_postgres(psycopg2.OperationalError(f'connection to server at "h", port 5432 failed: {text}\n'))
    assert type(told) is kind
    assert advice in told.hint


def test_of_several_hosts_what_lasts_is_told() -> None:
    told = from_postgres(
        psycopg2.OperationalError(
            'connection to server at "a", port 1 failed: Connection refused\n\tIs the server running on that host?\n'
            'connection to server at "b", port 1 failed: FATAL:  password authentication failed for user "u"\n'
        )
    )
    assert type(told) is StoreSetupError
    assert "password authentication failed" in told.message


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (mongo.OperationFailure("Authentication failed.", 18), StoreSetupError, "authSource=admin"),
        (mongo.OperationFailure("not authorized on x", 13), StoreSetupError, "readWrite"),
        (mongo.ServerSelectionTimeoutError("SSL handshake failed: h:1: [SSL: X]"), StoreSetupError, "tls=true only"),
        (mongo.ServerSelectionTimeoutError("h:1: [Errno -2] Name or service not known"), StoreUnavailableError, "host"),
        (mongo.ServerSelectionTimeoutError("h:1: [Errno 111] refused"), StoreUnavailableError, "ragstore status"),
    ],
)
def test_what_mongo_says_gets_the_right_advice(error: Exception, kind: type[StoreError], advice: str) -> None:
    with pytest.raises(StoreError) as raised, translation():
        raise error
    assert type(raised.value) is kind
    assert advice in raised.value.hint
