"""Whose processes these are: ours carry a mark in their environment, which every child inherits.

The mark names the state folder and the launcher that started them; so a leftover is told from another's process
however it came about, and whatever its parent was. Run as a module, it outlives a launcher and ends what that left.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "THEMIS_STARTED_BY"

_GRACE_S = 3.0


def mark(folder: Path) -> dict[str, str]:
    """The environment that makes a process this launcher's, and everything that it starts."""
    # SPT_NOENV: setproctitle, which Ray and vLLM use, otherwise writes its titles over the environment.
    return {MARK: f"{folder}:{os.getpid()}", "SPT_NOENV": "1"}


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Whatever ends this process within, a kill included, everything with its mark is ended too."""
    # Ray itself ends a driver whose raylet dies, at once and without a word. The guard sees its pipe close.
    command = [sys.executable, "-m", "cluster.processes", mark(folder)[MARK]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):  # noqa: S603 - this very module
        yield


def ours(owner: str) -> list[psutil.Process]:
    """Every living process with this mark, or with a mark of any launcher of this state folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or another user's: then not ours
            marked = process.environ().get(MARK, "")
            if owner in (marked, marked.rpartition(":")[0]) and process.pid != os.getpid():
                found.append(process)
    return [process for process in found if _lives(process)]


def end(owner: str) -> list[str]:
    """Ends what is ours, first politely; returns the names of what had to be ended."""
    names: list[str] = []
    deadline = time.monotonic() + _GRACE_S
    # Rounds, because a dying process may have started another one while the list was made.
    while processes := ours(owner):
        names += [name for process in processes if (name := _name(process))]
        late = time.monotonic() > deadline
        for process in processes:
            with suppress(psutil.Error):
                process.kill() if late else process.terminate()
        psutil.wait_procs(processes, timeout=1.0 if late else max(0.0, deadline - time.monotonic()))
    return sorted(set(names))


def listeners(ports: Iterable[int]) -> dict[int, str]:
    """Who listens on which of these ports, as text for a person."""
    wanted = set(ports)
    listening = [each for each in psutil.net_connections(kind="tcp") if each.status == psutil.CONN_LISTEN]
    return {each.laddr.port: _described(each.pid) for each in listening if each.laddr and each.laddr.port in wanted}


def children(names: Iterable[str]) -> list[psutil.Process]:
    """Living direct children of this process with one of these names."""
    wanted = set(names)
    return [child for child in psutil.Process().children() if _name(child) in wanted and _lives(child)]


def _described(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        command = "?"
    return f"pid {pid}: {command[:120]}"


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    sys.stdin.read()  # until the launcher closes it, or is no more
    end(sys.argv[1])
