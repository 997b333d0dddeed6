import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adapters.workshop import made_once, run_child, silent


def test_what_stands_is_not_made_again(tmp_path: Path) -> None:
    made: list[Path] = []
    for _ in range(2):
        assert made_once(tmp_path / "thing", made.append) == tmp_path / "thing"
    assert len(made) == 1


def test_several_makers_at_once_make_it_once(tmp_path: Path) -> None:
    """The lock holds between open files, so threads stand for processes here."""
    together, made = threading.Barrier(4), []

    def make(draft: Path) -> None:
        made.append(draft)
        (draft / "file").write_text("whole")

    def ask() -> None:
        together.wait(10)
        made_once(tmp_path / "thing", make)

    makers = [threading.Thread(target=ask) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(10)
    assert len(made) == 1
    assert (tmp_path / "thing" / "file").read_text() == "whole"


def test_a_failed_attempt_leaves_nothing_and_the_next_succeeds(tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        made_once(tmp_path / "thing", fail)
    assert [each.name for each in tmp_path.iterdir()] == [".thing.lock"]
    assert list(made_once(tmp_path / "thing", lambda _: None).iterdir()) == []


def test_drafts_of_killed_makers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".thing.draft-old").mkdir()
    made_once(tmp_path / "thing", lambda _: None)
    assert not (tmp_path / ".thing.draft-old").exists()


def test_the_lock_of_a_killed_maker_blocks_nobody(tmp_path: Path) -> None:
    lock = tmp_path / ".thing.lock"
    hold = f"import fcntl; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    assert made_once(tmp_path / "thing", lambda _: None).is_dir()


def test_a_childs_progress_is_handed_on_and_its_chatter_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text("print('chatter')\nfrom adapters.workshop import tell\ntell('half way', 0.5)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    seen: list[tuple[str, float]] = []
    run_child("busy", [], lambda what, share: seen.append((what, share)))
    assert seen == [("half way", 0.5)]


def test_a_childs_last_words_stand_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('out of luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="broken failed with status 1:\nout of luck"):
        run_child("broken", [], silent)
