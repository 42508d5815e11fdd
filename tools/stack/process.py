"""One server process: started, watched, stopped, killed; found again by its pid file from any process."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import psutil

_LAUNCHER = Path(__file__).with_name("launcher.py")
_POLL_SECONDS = 0.01
_REAP_SECONDS = 0.5
_LOG_TAIL_LINES = 30


class StackError(Exception):
    """A server of the stack did not start, stop or answer."""


class Identity(NamedTuple):
    """The system user a server runs as."""

    uid: int
    gid: int


class ServerProcess:
    """A server whose pid is kept in `<directory>/server.pid` and whose output is kept in `<directory>/server.log`.

    Linux delivers a parent-death signal when the *thread* that forked ends, so every server is forked by one thread
    that lives as long as this process.
    """

    def __init__(self, name: str, directory: Path, *, death_signal: signal.Signals = signal.SIGKILL) -> None:
        self.name = name
        self.directory = directory
        self.log_path = directory / "server.log"
        self._pid_path = directory / "server.pid"
        self._death_signal = death_signal

    def launch(
        self, command: Sequence[str | Path], *, run_as: Identity | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`; returns at once, readiness is the caller's to check. Starting it twice is an error."""
        if self.is_running():
            raise StackError(f"{self.name} already runs with pid {self.pid()}")
        identity = f"{run_as.uid}:{run_as.gid}" if run_as else "-"
        arguments = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(self._death_signal))]
        process = _on_spawner(lambda: self._spawn([*arguments, identity, *map(str, command)], env))
        self._pid_path.write_text(
            json.dumps({"pid": process.pid, "created": psutil.Process(process.pid).create_time()})
        )

    def _spawn(self, command: list[str], env: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: Ctrl-C goes to us, and we stop the servers in order.
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **(env or {})},
            )

    def pid(self) -> int | None:
        """The pid of the running server, or None."""
        process = self._process()
        return process.pid if process else None

    def is_running(self) -> bool:
        return self._process() is not None

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal; nothing happens when the server is not running."""
        process = self._process()
        if process is not None:
            process.send_signal(signal_number)

    def wait_ready(self, is_ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Poll `is_ready` until it is true. Raises `StackError` with the end of the log if the server dies first."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            if not self.is_running():
                raise StackError(f"{self.name} ended while starting\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready after {timeout_seconds} s\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self, first: signal.Signals, then: signal.Signals, timeout_seconds: float) -> None:
        """Send `first`; when the server still runs after the timeout, `then`. Returns when it is gone."""
        for signal_number in (first, then):
            self.send(signal_number)
            if self._wait_gone(timeout_seconds):
                self._pid_path.unlink(missing_ok=True)
                return
        raise StackError(f"{self.name} does not stop\n{self.log_tail()}")

    def kill(self) -> None:
        """SIGKILL the server and all its children, as a crash of the machine would. Returns when they are gone."""
        process = self._process()
        if process is None:
            return
        kill_tree(process)
        self._pid_path.unlink(missing_ok=True)

    def log_tail(self) -> str:
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])

    def _process(self) -> psutil.Process | None:
        return read_pid_file(self._pid_path)

    def _wait_gone(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def read_pid_file(path: Path) -> psutil.Process | None:
    """The process a pid file names, if it still runs. A recycled pid or a zombie counts as gone."""
    try:
        recorded = json.loads(path.read_text())
        process = psutil.Process(recorded["pid"])
        same = abs(process.create_time() - recorded["created"]) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL a process and its descendants, and wait until they are gone (zombies count as gone)."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    while any(is_alive(member) for member in family):
        time.sleep(_POLL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie, which only waits for its parent to notice, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_Popen = subprocess.Popen[bytes]
_requests: "queue.SimpleQueue[tuple[Callable[[], _Popen], Future[_Popen]]]" = queue.SimpleQueue()
_spawner_lock = threading.Lock()
_spawner: threading.Thread | None = None
_spawner_pid = 0


def _on_spawner(spawn: Callable[[], _Popen]) -> _Popen:
    """Run `spawn` on the one thread that forks servers; it ends only with this process."""
    global _spawner, _spawner_pid  # noqa: PLW0603  one per process by nature
    with _spawner_lock:
        if _spawner is None or _spawner_pid != os.getpid():  # a forked child has no threads of its parent's
            _spawner = threading.Thread(target=_serve_spawns, name="stack-spawner", daemon=True)
            _spawner_pid = os.getpid()
            _spawner.start()
    answer: Future[_Popen] = Future()
    _requests.put((spawn, answer))
    return answer.result()


def _serve_spawns() -> None:
    children: list[_Popen] = []
    while True:
        try:
            spawn, answer = _requests.get(timeout=_REAP_SECONDS)
        except queue.Empty:
            children = [child for child in children if child.poll() is None]
            continue
        # Reap before starting another: PostgreSQL takes its own zombie for a running server.
        children = [child for child in children if child.poll() is None]
        try:
            child = spawn()
            children.append(child)
            answer.set_result(child)
        except OSError as error:
            answer.set_exception(error)
