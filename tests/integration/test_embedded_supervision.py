from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from ragstore.embedded import ports, processes, state
from ragstore.embedded.home import Home, ServerName, log_tail, read_json, rotate_log, write_private
from ragstore.embedded.lock import SupervisorLock, is_ending, is_held
from ragstore.embedded.state import ServerState, State, StateWriter
from ragstore.embedded.supervisor import back_off_s
from ragstore.errors import EmbeddedServerError
from ragstore.protocol.recover import is_dead, this_worker
from tests.support.children import until


def a_home(path: Path) -> Home:
    home = Home.at(path)
    home.make()
    return home


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    lock = SupervisorLock.acquire(path)
    assert lock
    with lock:
        assert is_held(path)
        assert SupervisorLock.acquire(path) is None
    assert not is_held(path)


def test_a_lock_that_a_child_inherited_is_held_until_the_child_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = SupervisorLock.acquire(path)
    assert lock
    with lock:
        child = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fd])
    assert is_held(path)
    child.kill()
    child.wait()
    assert not is_held(path)


def test_a_lock_whose_file_was_removed_is_no_longer_in_place(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = SupervisorLock.acquire(path)
    assert lock
    with lock:
        assert lock.is_in_place()
        path.unlink()
        assert not lock.is_in_place()
        path.touch()
        assert not lock.is_in_place()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_killed_process_is_ending_from_the_moment_of_the_kill() -> None:
    child = subprocess.Popen(["sleep", "600"])
    assert not is_ending(child.pid)
    child.kill()
    assert is_ending(child.pid)
    child.wait()
    assert is_ending(child.pid)


def test_an_unreaped_child_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "600"])
    process = psutil.Process(child.pid)
    assert processes.is_alive(process)
    processes.end([process], [(signal.SIGKILL, 10.0)])
    assert not processes.is_alive(process)
    child.wait()


def test_end_becomes_ruder_until_the_process_is_gone() -> None:
    deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do read x; done"], stdout=-1, stdin=-1)
    assert deaf.stdout
    assert deaf.stdout.readline() == b"ready\n"
    processes.end([psutil.Process(deaf.pid)], [(signal.SIGTERM, 0.2), (signal.SIGKILL, 10.0)])
    assert deaf.wait() == -signal.SIGKILL
    deaf.communicate()


def test_a_process_is_known_by_number_and_start_together() -> None:
    myself = psutil.Process()
    when = processes.start_id(myself.pid)
    assert processes.find(myself.pid, when) == myself
    assert processes.find(myself.pid, f"{when}1") is None
    assert processes.find(None, None) is None


@pytest.mark.skipif(not processes.this_boot(), reason="the system does not say which boot this is")
def test_the_start_of_a_process_does_not_move_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before, worker = processes.start_id(os.getpid()), this_worker()
    # What psutil adds the ticks to; it moves when the clock is set.
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 1_000_000.0)
    assert processes.start_id(os.getpid()) == before
    assert this_worker() == worker
    assert not is_dead(worker)


def test_a_worker_is_dead_when_its_process_is_and_never_when_that_cannot_be_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, space, pid, when = this_worker().rsplit("/", 3)
    with subprocess.Popen(["sleep", "60"]) as child:
        alive = "/".join((host, space, str(child.pid), processes.start_id(child.pid)))
        assert not is_dead(alive)
        child.kill()
        until(lambda: is_dead(alive), what="the worker is dead")  # a zombie first
    assert is_dead(alive)
    assert is_dead("/".join((host, space, pid, f"{when}1")))
    for other in (
        "/".join(("elsewhere", space, pid, f"{when}1")),
        "/".join((host, "1", pid, f"{when}1")),
        f"{host}/{space}/{pid}/another-boot.17",
        "odd",
    ):
        assert not is_dead(other), other
    monkeypatch.setattr(Path, "read_text", hidden)
    assert not is_dead(this_worker_of_another(host, space))


def hidden(*_: object, **__: object) -> str:
    """As where /proc hides the processes of others."""
    raise FileNotFoundError


def this_worker_of_another(host: str, space: str) -> str:
    return "/".join((host, space, "1", f"{processes.this_boot()}.1"))


def test_only_processes_of_the_program_that_work_in_the_very_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    with (
        subprocess.Popen(["sleep", "600"], cwd=tmp_path / "data") as ours,
        subprocess.Popen(["sleep", "600"], cwd=tmp_path / "other") as other,
        subprocess.Popen(["cat"], cwd=tmp_path / "data", stdin=subprocess.PIPE) as another_program,
    ):
        found = processes.processes_in(tmp_path / "data", "sleep")
        for child in (ours, other, another_program):
            child.kill()
    assert [process.pid for process in found] == [ours.pid]


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    server = ServerState(pid=7, created="boot.15", port=20001, version="18.4", ready=True)
    written = State(phase="running", pid=6, created="boot.10", servers={"postgres": server})
    state.save(home, written)
    assert state.load(home) == written


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"servers": {"mongo": {"x": 1}}}', '{"servers": [], "y": 2}'])
def test_a_state_that_cannot_be_understood_says_that_nothing_runs(tmp_path: Path, text: str) -> None:
    home = a_home(tmp_path)
    home.state.write_text(text)
    assert state.load(home) == State(phase="stopped")


def test_all_is_ready_only_when_both_servers_are() -> None:
    ready = ServerState(ready=True)
    assert not State(phase="running").all_ready
    assert not State(phase="running", servers={"mongo": ready}).all_ready
    assert not State(phase="running", servers={"mongo": ready, "postgres": ServerState()}).all_ready
    assert not State(phase="stopping", servers={"mongo": ready, "postgres": ready}).all_ready
    assert State(phase="running", servers={"mongo": ready, "postgres": ready}).all_ready


def test_the_reason_of_a_failure_outlives_what_is_said_after_it(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    state_writer = StateWriter(home)
    state_writer.fail(EmbeddedServerError("first", hint="do this", log="a.log"))
    state_writer.fail(EmbeddedServerError("second"))
    state_writer.set_phase("stopped")
    told = state.load(home)
    assert (told.phase, told.pid) == ("failed", os.getpid())
    assert told.error == {"message": "first", "hint": "do this", "facts": {"log": "a.log"}}


def test_a_state_that_cannot_be_written_does_not_end_the_supervisor(tmp_path: Path) -> None:
    home = a_home(tmp_path)
    state_writer = StateWriter(home)
    home.logs.rmdir()
    home.state.unlink()
    home.path.rmdir()
    state_writer.set_phase("running")
    home.make()
    state_writer.set_phase("running")
    assert state.load(home).phase == "running"


def test_the_back_off_doubles_from_a_tenth_of_a_second_up_to_ten() -> None:
    assert [back_off_s(n) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert back_off_s(50) == 10.0


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, json.dumps({"a": 1}), durable=True)
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_tail_of_a_log_begins_at_this_start_and_prefers_errors(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("FATAL:  of an earlier start\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("LOG:  hello\n")
    assert log_tail(log, start=start) == "LOG:  hello"
    with log.open("a") as file:
        file.write("FATAL:  no room\nDETAIL:  none at all\nLOG:  bye\n")
    assert log_tail(log, start=start) == "FATAL:  no room\nDETAIL:  none at all"
    assert log_tail(tmp_path / "none") == ""


def test_the_log_of_mongodb_is_put_in_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [
        {"s": "I", "msg": "hello"},
        {"s": "F", "msg": "cannot open", "attr": {"path": "/x"}},
        {"s": "I", "msg": "bye"},
    ]
    log.write_text("\n".join(json.dumps(line) for line in lines))
    assert log_tail(log) == 'cannot open {"path": "/x"}'


def test_a_log_that_has_grown_large_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("small")
    rotate_log(log)
    assert log.exists()
    with log.open("r+b") as file:
        file.truncate(17 * 2**20)
    rotate_log(log)
    assert [path.name for path in tmp_path.iterdir()] == ["log.1"]


@pytest.mark.parametrize(("name", "reply"), [("postgres", b"E"), ("postgres", b""), ("mongo", b""), ("mongo", b"HTTP")])
def test_a_stranger_on_the_port_is_no_answer(name: ServerName, reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up_after_reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(reply)

        stranger = threading.Thread(target=hang_up_after_reply)
        stranger.start()
        answered = ports.answers(name, listener.getsockname()[1])
        stranger.join()
    assert not answered
