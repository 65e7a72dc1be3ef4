from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import ragstore
from ragstore.embedded.ports import a_free_port
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.compose import ROOT, Stack, a_stack, need_engine

pytestmark = pytest.mark.timeout(600)

OBSERVABILITY = ROOT / "stack" / "observability"


@pytest.fixture(autouse=True)
def _engine() -> None:
    need_engine()


def test_with_tls_plain_connections_are_refused_and_all_else_works(tmp_path: Path) -> None:
    with a_stack(tmp_path, overrides=["stack/tls.yaml"]) as stack:
        stack.run("stack/make-certificates")
        (stack.documents / "one.md").write_text("# One\n\nThe first document is about bridges.\n")
        stack.compose("up", "--detach", "--wait")
        stack.ragstore("ingest", "/documents")
        assert stack.answer("query", "bridges")["hits"]
        status = stack.answer("status")
        assert "sslmode=verify-full" in status["postgres"]["url"] and "tls=true" in status["mongo"]["url"]

        plain = {
            "RAGSTORE_POSTGRES_URL": "postgresql://ragstore_app@postgres:5432/ragstore?sslmode=disable",
            "RAGSTORE_MONGO_URL": "mongodb://ragstore_app@mongo:27017/?replicaSet=rs0&authSource=admin",
        }
        for option, url in plain.items():
            ran = stack.compose(
                "run", "--rm", "-T", "-e", f"{option}={url}", "app", "ingest", "/documents", check=False
            )
            assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
        stranger = {
            "RAGSTORE_POSTGRES_URL": "postgresql://ragstore_app@postgres:5432/ragstore?sslmode=verify-full&sslrootcert=system",
            "RAGSTORE_MONGO_URL": plain["RAGSTORE_MONGO_URL"] + "&tls=true",
        }
        for option, url in stranger.items():
            ran = stack.compose(
                "run", "--rm", "-T", "-e", f"{option}={url}", "app", "ingest", "/documents", check=False
            )
            assert ran.returncode == 1 and re.search("certificate verify failed", ran.stderr), ran.stderr


def test_a_backup_brings_both_databases_back(tmp_path: Path) -> None:
    with a_stack(tmp_path, options={"RAGSTORE_GRACE_S": "0"}) as stack:
        kept = stack.documents / "kept.md"
        kept.write_text("# Kept\n\nThe first text is about bridges.\n")
        stack.compose("--profile", "backup", "up", "--detach", "--wait", "postgres", "mongo", "migrate", "backup")
        stack.ragstore("ingest", "/documents")
        before = stack.answer("query", "bridges")
        made = stack.compose("--profile", "backup", "run", "--rm", "--no-deps", "-T", "backup", "now").stdout
        name = re.findall(r"ragstore-\S+\.dump", made)[0]
        assert name in stack.run("stack/restore").stdout

        kept.write_text("# Kept\n\nThe second text is about tunnels.\n")
        (stack.documents / "later.md").write_text("# Later\n\nA document that the backup does not know.\n")
        stack.ragstore("ingest", "/documents")
        assert stack.answer("query", "bridges") != before

        assert stack.run("stack/restore", "ragstore-no.dump", check=False).returncode == 1
        kept.write_text("# Kept\n\nThe first text is about bridges.\n")
        (stack.documents / "later.md").unlink()
        stack.run("stack/restore", name)
        assert stack.answer("query", "bridges") == before
        report = stack.answer("verify", "--deep")
        assert report["ok"] and report["documents"] == 1


def test_with_host_access_programs_on_this_machine_reach_both_databases(tmp_path: Path) -> None:
    ports = {"POSTGRES_PORT": str(a_free_port()), "MONGO_PORT": str(a_free_port())}
    with a_stack(tmp_path, overrides=["stack/host-access.yaml"], options=ports) as stack:
        (stack.documents / "one.md").write_text("# One\n\nThe first document is about bridges.\n")
        stack.compose("run", "--rm", "-T", "migrate")
        secrets = stack.secrets()
        settings = Settings(
            postgres_url=f"postgresql://ragstore_app@127.0.0.1:{ports['POSTGRES_PORT']}/ragstore",
            postgres_password=secrets["postgres_app_password"],
            mongo_url=f"mongodb://ragstore_app@127.0.0.1:{ports['MONGO_PORT']}/?authSource=admin&directConnection=true",
            mongo_password=secrets["mongo_app_password"],
        )
        with ragstore.open(settings) as store:
            store.ingest(stack.documents)
            nodes = store.index().as_retriever(similarity_top_k=1).retrieve("bridges")
            assert "bridges" in nodes[0].get_content()


def test_prometheus_sees_every_worker_and_the_dashboard_asks_for_what_is_there(tmp_path: Path) -> None:
    port = a_free_port()
    with a_stack(tmp_path, options={"PROMETHEUS_PORT": str(port), "WORKER_EVERY_S": "1"}) as stack:
        (stack.documents / "one.md").write_text("# One\n\nThe first document is about bridges.\n")
        stack.compose("up", "--detach", "--wait", "--scale", "worker=2", "worker", "maintain")
        # Grafana's image is not needed to see that what it would ask for is there.
        stack.compose("--profile", "observability", "up", "--detach", "--wait", "--no-deps", "prometheus")
        assert_alerts_fire_when_they_should(stack)

        until(lambda: up(port) == {"worker": 2, "maintain": 1}, what="all targets are scraped", timeout_s=90)
        until(lambda: asked(port, "ragstore_documents"), what="the collection is counted", timeout_s=90)
        alerts = {rule["name"] for group in get(port, "rules")["groups"] for rule in group["rules"]}
        assert "RagstoreStoreDown" in alerts

        dashboard = json.loads((OBSERVABILITY / "grafana/dashboards/ragstore.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                get(port, "query", query=target["expr"])
        known = set(get(port, "label/__name__/values"))
        rules = (OBSERVABILITY / "alerts.yaml").read_text()
        wanted = set(re.findall(r"\bragstore_\w+", json.dumps(dashboard) + rules))
        # Counters and gauges of what has not happened yet have no sample.
        assert wanted - known <= {"ragstore_quarantined_documents", "ragstore_outbox_oldest_due_seconds"}


def assert_alerts_fire_when_they_should(stack: Stack) -> None:
    ran = stack.compose(
        "--profile", "observability", "exec", "-T", "prometheus", "promtool", "test", "rules", "/stack/alerts_test.yaml"
    )
    assert "SUCCESS" in ran.stdout + ran.stderr
    alerts = re.findall(r"- alert: (\w+)", (OBSERVABILITY / "alerts.yaml").read_text())
    tested = re.findall(r"alertname: (\w+)\n", (OBSERVABILITY / "alerts_test.yaml").read_text())
    assert sorted(alerts) == sorted(tested)


def up(port: int) -> dict[str, int]:
    return {sample["metric"]["job"]: int(sample["value"][1]) for sample in asked(port, "sum by (job) (up)")}


def asked(port: int, query: str) -> list[dict[str, Any]]:
    return list(get(port, "query", query=query)["result"])


def get(port: int, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        answer = json.load(response)
    assert answer["status"] == "success", answer
    return answer["data"]
