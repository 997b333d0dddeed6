"""Things made once on a machine and kept: under a lock, in a temporary folder, published by one rename.

The work runs in a child process, so that a long-lived caller does not keep a gigabyte of libraries. Knows nothing of
what is made.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

_MARK = "progress "


def silent(_what: str, _share: float) -> None:
    """Progress that nobody watches."""


def cache_root() -> Path:
    """Where things are kept: `THEMIS_CACHE`, or `~/.cache/themis`."""
    return Path(os.environ.get("THEMIS_CACHE") or Path.home() / ".cache" / "themis")


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make` in a temporary place unless it stands already; several processes may ask at once."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            _sweep(folder)
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
            try:
                make(draft)
                draft.chmod(0o755)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder


def _sweep(folder: Path) -> None:
    """Removes drafts of makers that were killed. Only the lock's holder may call it."""
    for draft in folder.parent.glob(f".{folder.name}.draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        # The kernel frees it when its holder dies, so a killed maker blocks nobody.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_child(module: str, arguments: list[str], progress: Progress) -> None:
    """Runs `python -m module arguments` and hands on what it tells. Raises RuntimeError with its last lines."""
    command = [sys.executable, "-m", module, *arguments]
    # Everything the child needs is on disk: it must not wait for a hub that may be out of reach.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    last_words: deque[str] = deque(maxlen=20)
    with subprocess.Popen(  # noqa: S603 - our own interpreter on our own module
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            for line in child.stdout or ():
                if line.startswith(_MARK):
                    share, _, what = line.removeprefix(_MARK).rstrip().partition(" ")
                    progress(what, float(share))
                else:
                    last_words.append(line)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise RuntimeError(f"{module} failed with status {child.returncode}:\n{''.join(last_words)}")


def tell(what: str, share: float) -> None:
    """Reports progress from within a child."""
    sys.stdout.write(f"{_MARK}{share:.3f} {what}\n")
    sys.stdout.flush()
