"""The states that runbooks are for: each brings a stack there, and gives the values that a person would set."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.children import until
from tests.support.compose import Stack

N_DOCUMENTS = 15
ROTATED = ("postgres_owner", "postgres_app", "postgres_backup", "mongo_admin", "mongo_app")
QUESTIONS = ("which part number has the seal of pump 3", "how often is pump 7 oiled")

Values = dict[str, str]
Scene = Callable[[Stack], Values]

LOSE_BODIES = """
from ragstore.app.wiring import reachable
from ragstore.settings import Settings
import pymongo
settings = Settings()
database = pymongo.MongoClient(reachable(settings).mongo_url)[settings.mongo_database]
print(database["default/data"].delete_many({}).deleted_count)
"""


def write_documents(stack: Stack) -> None:
    """More than a sync may delete at once without being told to."""
    for i in range(N_DOCUMENTS):
        text = f"# Pump {i}\n\nPump {i} is oiled every {i + 2} days. Its seal has the part number PS-{1000 + i}.\n"
        (stack.documents / f"pump{i}.md").write_text(text, encoding="utf-8")


def until_in_sync(stack: Stack) -> None:
    """Wait for the worker to have all documents."""

    def in_sync() -> bool:
        ran = stack.ragstore("status", "--json", check=False)
        collections = json.loads(ran.stdout)["collections"] if ran.stdout else []
        return [each["documents"] for each in collections] == [N_DOCUMENTS]

    until(in_sync, what=f"the worker has put in {N_DOCUMENTS} documents", timeout_s=180)


def answers(stack: Stack) -> list[list[str]]:
    """Text of the best hit of each question; others may be equally good."""
    script = "; ".join(f"ragstore query '{question}' --top-k 1 --json" for question in QUESTIONS)
    printed = stack.compose("run", "--rm", "-T", "--entrypoint", "sh", "app", "-c", f"set -e; {script}").stdout
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(printed.rstrip()):
        value, at = decoder.raw_decode(printed, len(printed) - len(printed[at:].lstrip()))
        found.append([hit["text"] for hit in value["hits"]])
    return found


def as_it_is(stack: Stack) -> Values:
    """A stack at work."""
    return {}


def no_postgresql(stack: Stack) -> Values:
    stack.compose("kill", "--signal", "SIGKILL", "postgres")
    return {}


def no_mongodb(stack: Stack) -> Values:
    """With work for it in the outbox: a document that was deleted before MongoDB was told."""
    stack.compose("kill", "--signal", "SIGKILL", "mongo")
    return {}


def lost_mongodb(stack: Stack) -> Values:
    stack.compose("rm", "--force", "--stop", "mongo", "mongo-init", "migrate")
    remove_volumes(stack, "mongo_data", "mongo_config")
    stack.compose("up", "--detach", "--no-deps", "mongo")
    stack.compose("run", "--rm", "-T", "mongo-init")
    stack.compose("run", "--rm", "-T", "--no-deps", "migrate")
    return {}


def lost_postgresql(stack: Stack) -> Values:
    values = a_dump(stack)
    stack.compose("rm", "--force", "--stop", "postgres", "migrate")
    remove_volumes(stack, "postgres_data")
    stack.compose("up", "--detach", "--wait", "--no-deps", "postgres")
    return values


def a_dump(stack: Stack) -> Values:
    stack.compose("--profile", "backup", "run", "--rm", "-T", "backup", "now")
    return {"DUMP": stack.run("stack/restore").stdout.split()[-1]}


def bodies_deleted(stack: Stack) -> Values:
    gone = stack.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "python3", "app", "-c", LOSE_BODIES).stdout
    assert int(gone) >= N_DOCUMENTS
    return {}


def a_damaged_document(stack: Stack) -> Values:
    path = stack.documents / "scan.pdf"
    path.write_bytes(b"%PDF-1.7\nthis is no PDF\n")
    until(lambda: bool(stack.answer("quarantine", "list")["quarantine"]), what="it is in quarantine", timeout_s=60)
    return {"FILE": "documents/scan.pdf"}


def moved_documents(stack: Stack) -> Values:
    """As if another folder had been mounted."""
    elsewhere = stack.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    for path in sorted(stack.documents.iterdir()):
        path.rename(elsewhere / path.name)
    return {"FOLDER": "elsewhere"}


def deleted_documents(stack: Stack) -> Values:
    values = moved_documents(stack)
    stack.ragstore("sync", "/documents", "--allow-mass-delete")
    return values | {"DOCUMENT": "/documents/pump3.md"}


def a_stopped_worker(stack: Stack) -> Values:
    stack.compose("kill", "--signal", "SIGSTOP", "worker")
    return {}


def a_wrong_setting(stack: Stack) -> Values:
    with (stack.folder / ".env").open("a", encoding="utf-8") as file:
        file.write("\nRAGSTORE_CHUNK_SIZE=many\n")
    stack.compose("up", "--detach", "--no-deps", "worker")
    return {}


def no_maintain(stack: Stack) -> Values:
    stack.compose("stop", "maintain")
    return {}


def replaced_secrets(stack: Stack) -> Values:
    """As an editor or a tool of automation replaces a file: by another one of its name."""
    for name in ROTATED:
        path = stack.folder / f"stack/secrets/{name}_password"
        new = path.with_suffix(".new")
        new.write_text(f"{name}-rotated-by-a-tool", encoding="utf-8")
        new.chmod(0o444)
        new.replace(path)
    return {}


def remove_volumes(stack: Stack, *names: str) -> None:
    stack.run("docker", "volume", "rm", *(f"{stack.project}_{name}" for name in names))


SCENES: dict[str, Scene] = {
    "postgres-down": no_postgresql,
    "mongo-down": no_mongodb,
    "mongo-lost": lost_mongodb,
    "postgres-lost": lost_postgresql,
    "restore": a_dump,
    "passwords": replaced_secrets,
    "upgrade": as_it_is,
    "drift": bodies_deleted,
    "quarantine": a_damaged_document,
    "refused": moved_documents,
    "wrong-deletion": deleted_documents,
    "worker-hangs": a_stopped_worker,
    "worker-restarts": a_wrong_setting,
    "more-workers": as_it_is,
    "slow-questions": no_maintain,
}
