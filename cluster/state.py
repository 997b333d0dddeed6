"""What a start leaves on disk for the next one: one folder with the local key, Ray's token, and who runs now.

The folder's lock is held for as long as a launcher lives, so whoever gets it knows that no other one does.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from policies.identity import KeyConfig, digest, new_key


class AlreadyRunning(Exception):
    """Another launcher holds the state folder."""


@dataclass(frozen=True, slots=True)
class Run:
    """The launcher that runs, or ran last.

    address: where Ray drivers connect. session: Ray's folder with sockets and logs.
    """

    pid: int
    address: str = ""
    session: str = ""


class StateFolder:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def default(cls) -> "StateFolder":
        """`$THEMIS_STATE`, else `themis` in `$XDG_STATE_HOME` or `~/.local/state`."""
        if chosen := os.environ.get("THEMIS_STATE"):
            return cls(Path(chosen))
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return cls(Path(home) / "themis")

    @contextmanager
    def held(self, *, wait: bool = False) -> Iterator[None]:
        """Keeps every other launcher out. Raises AlreadyRunning, unless it may wait for that one's end."""
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                run = self.run()
                raise AlreadyRunning(
                    f"Themis runs already (pid {run.pid if run else '?'}); 'themis down' stops it"
                ) from None
            yield

    def is_held(self) -> bool:
        try:
            with self.held():
                return False
        except AlreadyRunning:
            return True

    def run(self) -> Run | None:
        """Who runs now, or ran last."""
        try:
            return Run(**json.loads((self.path / "run.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def record(self, run: Run) -> None:
        self._write("run.json", json.dumps(asdict(run)))

    def forget(self) -> None:
        (self.path / "run.json").unlink(missing_ok=True)

    def local_key(self) -> str:
        """The API key of this machine's user; made once."""
        return self._once("local.key", new_key)

    def local_key_config(self) -> KeyConfig:
        return KeyConfig(name="local", sha256=digest(self.local_key()))

    def ray_token(self) -> Path:
        """The file with the token that Ray's own ports demand."""
        self._once("ray.token", lambda: secrets.token_hex(32))
        return self.path / "ray.token"

    def _once(self, name: str, make: Callable[[], str]) -> str:
        path = self.path / name
        if not path.exists():
            self._write(name, make())
        return path.read_text().strip()

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, and never readable by others, not even for a moment."""
        fresh = self.path / f"{name}.{os.getpid()}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        fresh.replace(self.path / name)
