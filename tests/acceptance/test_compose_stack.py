from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.runbooks.scenes import ROTATED, replaced_secrets
from tests.support.children import until
from tests.support.compose import Stack, a_stack, need_engine
from tests.support.real_documents import write_corpus

pytestmark = pytest.mark.timeout(600)

QUESTIONS = (
    "what is published when",
    "who may delete a document",
    "what happens to a dead worker",
    "which commands are there",
)
SERVICES = ("postgres", "mongo", "worker", "maintain")
METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"


@pytest.fixture(autouse=True)
def _engine() -> None:
    need_engine()


def test_the_stack_works_from_a_fresh_clone_and_answers_the_same_after_each_service_was_restarted(
    tmp_path: Path,
) -> None:
    with a_stack(tmp_path, options={"WORKER_EVERY_S": "1", "RAGSTORE_GRACE_S": "0"}) as stack:
        n_documents = write_corpus(stack.documents / "corpus")
        stack.compose("up", "--detach", "--wait")
        until_in_sync(stack, n_documents)
        assert stack.answer("ingest", "/documents")["unchanged"] == n_documents
        before = answers(stack)
        assert all(len(hits) == 10 for hits in before)

        for service in SERVICES:
            stack.compose("restart", service)
            stack.compose("up", "--detach", "--wait")
            assert answers(stack) == before, f"after a restart of {service}"
            stack.compose("kill", "--signal", "SIGKILL", service)
            stack.compose("up", "--detach", "--wait")
            assert answers(stack) == before, f"after a kill of {service}"
        stack.compose("kill", "--signal", "SIGKILL")
        stack.compose("up", "--detach", "--wait")
        assert answers(stack) == before, "after a kill of everything"
        stack.compose("down")
        stack.compose("up", "--detach", "--wait")
        assert answers(stack) == before, "in new containers on the old volumes"

        report = stack.answer("verify", "--deep")
        assert report["ok"] and report["documents"] == n_documents
        assert_the_worker_follows_the_folder(stack, n_documents)
        assert_no_secret_is_shown(stack)


def test_of_four_workers_one_works_and_another_takes_over_when_it_dies(tmp_path: Path) -> None:
    with a_stack(tmp_path, options={"WORKER_EVERY_S": "1"}) as stack:
        (stack.documents / "first.md").write_text("# First\n\nThe first document is about bridges.\n")
        stack.compose("up", "--detach", "--wait", "--scale", "worker=4")
        until_in_sync(stack, 1)
        until(lambda: sorted(working(stack).values()) == [0, 0, 0, 1], what="one of four works")

        at_work = next(container for container, turn in working(stack).items() if turn)
        stack.run("docker", "kill", at_work)
        (stack.documents / "second.md").write_text("# Second\n\nThe second document is about tunnels.\n")
        until_in_sync(stack, 2)
        assert sum(turn for container, turn in working(stack).items() if container != at_work) == 1
        assert stack.answer("query", "tunnels")["hits"][0]["document_id"] == "/documents/second.md"
        assert stack.answer("verify")["ok"]


def test_the_app_role_makes_and_drops_nothing_and_containers_are_closed(tmp_path: Path) -> None:
    with a_stack(tmp_path) as stack:
        stack.compose("up", "--detach", "--wait")
        assert_the_app_role_changes_rows_alone(stack)
        assert_containers_are_closed(stack)
        assert_wrong_passwords_are_told_in_one_line(stack)
        assert_new_passwords_can_be_set(stack)


def until_in_sync(stack: Stack, n_documents: int) -> None:
    def in_sync() -> bool:
        ran = stack.ragstore("status", "--json", check=False)
        collections = json.loads(ran.stdout)["collections"] if ran.stdout else []
        return [each["documents"] for each in collections] == [n_documents]

    until(in_sync, what=f"the worker has put in {n_documents} documents", timeout_s=90)


def answers(stack: Stack) -> list[list[tuple[str, float]]]:
    """Node ids and scores, all questions in one container, because starting one takes a second."""
    script = "; ".join(f"ragstore query '{question}' --json" for question in QUESTIONS)
    printed = stack.compose("run", "--rm", "-T", "--entrypoint", "sh", "app", "-c", f"set -e; {script}").stdout
    found = [json.loads(line)["hits"] for line in one_per_line(printed)]
    assert len(found) == len(QUESTIONS)
    return [[(hit["node_id"], round(hit["score"], 6)) for hit in hits] for hits in found]


def one_per_line(printed: str) -> list[str]:
    """JSON objects that may be spread over lines."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(printed.rstrip()):
        value, at = decoder.raw_decode(printed, at + len(printed[at:]) - len(printed[at:].lstrip()))
        found.append(json.dumps(value))
    return found


def assert_the_worker_follows_the_folder(stack: Stack, n_documents: int) -> None:
    changed = stack.documents / "fresh.md"
    changed.write_text("# Zeppelins\n\nAirships carry mail over the Alps.\n")
    until_in_sync(stack, n_documents + 1)
    hits = stack.answer("query", "airships that carry mail")["hits"]
    assert hits[0]["document_id"] == "/documents/fresh.md"
    changed.unlink()
    until_in_sync(stack, n_documents)
    assert stack.answer("verify")["ok"]


def working(stack: Stack) -> dict[str, int]:
    """``ragstore_working`` of each worker that runs."""
    found = {}
    for container in stack.compose("ps", "--quiet", "worker").stdout.split():
        printed = stack.run("docker", "exec", container, "python3", "-c", METRICS, check=False).stdout
        value = re.search(r"^ragstore_working (\d)", printed, re.MULTILINE)
        if value:
            found[container] = int(value[1])
    return found


def assert_no_secret_is_shown(stack: Stack) -> None:
    secrets = {name: secret for name, secret in stack.secrets().items() if "\n" not in secret}
    assert {
        "postgres_app_password",
        "postgres_owner_password",
        "mongo_app_password",
        "mongo_admin_password",
        "mongo_keyfile",
    } <= set(secrets)
    status = stack.ragstore("status", "--settings")
    wrong = stack.compose(
        "run",
        "--rm",
        "-T",
        "-e",
        "RAGSTORE_POSTGRES_URL=postgresql://ragstore_app@nowhere:1/x",
        "app",
        "documents",
        check=False,
    )
    shown = {
        "docker inspect": json.dumps(stack.containers()),
        "logs": stack.compose("logs", "--no-color").stdout,
        "status": status.stdout + status.stderr,
        "an error": wrong.stdout + wrong.stderr,
        "docker compose config": stack.compose("config").stdout,
    }
    for where, text in shown.items():
        assert text, where
        assert [name for name, secret in secrets.items() if secret in text] == [], where


def assert_the_app_role_changes_rows_alone(stack: Stack) -> None:
    (stack.documents / "one.md").write_text("# One\n\nSome text about one thing.\n")
    assert stack.answer("ingest", "/documents")["failed"] == 0
    for refused in (
        "CREATE TABLE ragstore.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "DROP TABLE ragstore.document",
        "DROP TABLE ragstore.data_default",
        "ALTER TABLE ragstore.document ADD COLUMN mine int",
        "CREATE INDEX ON ragstore.data_default (text)",
        "TRUNCATE ragstore.document",
        "CREATE SCHEMA mine",
        "CREATE EXTENSION hstore",
        "SET ROLE ragstore_owner",
        "SELECT * FROM pg_authid",
    ):
        ran = stack.sql(refused, user="ragstore_app")
        assert ran.returncode != 0 and "ERROR" in ran.stderr, refused
        assert re.search("permission denied|must be owner", ran.stderr), refused
    assert stack.sql("SELECT count(*) FROM ragstore.document", user="ragstore_app").stdout.strip() == "1"
    assert stack.sql("DELETE FROM ragstore.document", user="ragstore_backup").returncode != 0


def assert_containers_are_closed(stack: Stack) -> None:
    for container in stack.containers():
        name, config, host = container["Name"], container["Config"], container["HostConfig"]
        assert config["User"].split(":")[0] not in ("", "0", "root"), name
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["LogConfig"]["Config"]["max-size"] == "10m", name
        assert host["PortBindings"] in (None, {}), name
        if not name.endswith("mongo-init-1"):
            assert host["Memory"] > 0 and host["NanoCpus"] > 0, name
    exposed = stack.compose("--profile", "*", "config", "--format", "json").stdout
    ports = [port for service in json.loads(exposed)["services"].values() for port in service.get("ports", [])]
    assert ports and all(port["host_ip"] == "127.0.0.1" for port in ports)
    assert json.loads(exposed)["networks"]["databases"]["internal"] is True


def assert_wrong_passwords_are_told_in_one_line(stack: Stack) -> None:
    for name, server in (("postgres", "PostgreSQL"), ("mongo", "MongoDB")):
        url = stack_url(stack, name)
        ran = stack.compose(
            "run", "--rm", "-T", "-e", f"RAGSTORE_{name.upper()}_URL={url}", "app", "ingest", "/documents", check=False
        )
        errors = [line for line in ran.stderr.splitlines() if line.startswith(("error:", "hint:"))]
        assert ran.returncode == 1 and len(errors) == 2 and server in errors[0], ran.stderr
        assert "Traceback" not in ran.stderr


def stack_url(stack: Stack, name: str) -> str:
    """The service's URL with a user that is not there."""
    config: Any = json.loads(stack.compose("--profile", "app", "config", "--format", "json").stdout)
    return str(config["services"]["app"]["environment"][f"RAGSTORE_{name.upper()}_URL"]).replace(
        "ragstore_app", "nobody"
    )


def assert_new_passwords_can_be_set(stack: Stack) -> None:
    """Also where files were replaced by others, and where the script was killed when it had only written files."""
    before = stack.secrets()
    replaced_secrets(stack)
    assert stack.ragstore("documents", check=False).returncode == 1
    stack.run("stack/rotate", "--files")
    assert stack.answer("verify")["ok"]
    stack.run("timeout", "--signal", "KILL", "1", "stack/rotate", check=False)
    stack.run("stack/rotate", "--files")
    assert stack.answer("verify")["ok"]
    now = stack.secrets()
    assert {name for name in now if now[name] != before[name]} == {f"{name}_password" for name in ROTATED}
    assert_no_secret_is_shown(stack)
