"""Every process here ends by the kernel's hand, so each is watched through a pidfd, which also tells of zombies."""

import os
import select
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import multiprocessing, os, signal, sys
from deployments.engines.lifeline import tie_to_parent

def child(gate, told):
    with open(gate) as file:
        file.read()
    tie_to_parent()
    with open(told, "w") as file:
        file.write("tied")
    signal.pause()

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=sys.argv[1:])
    process.start()
    print(process.pid, flush=True)
    signal.pause()
"""


class Family:
    """A parent with one child, which ties itself to the parent once `open_gate` was called."""

    def __init__(self, place: Path) -> None:
        script, self.gate, self.told = place / "family.py", place / "gate", place / "told"
        script.write_text(SCRIPT)
        os.mkfifo(self.gate)
        os.mkfifo(self.told)
        command = [sys.executable, str(script), str(self.gate), str(self.told)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        self.parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.parent.stdout is not None
        self.child = os.pidfd_open(int(self.parent.stdout.readline()))

    def open_gate(self) -> None:
        self.gate.write_text("")

    def close(self) -> None:
        self.parent.kill()
        self.parent.communicate()
        os.close(self.child)


def ended(process: int, within_s: float) -> bool:
    return bool(select.select([process], [], [], within_s)[0])


def test_a_tied_child_dies_with_its_parent(tmp_path: Path) -> None:
    family = Family(tmp_path)
    try:
        family.open_gate()
        assert family.told.read_text() == "tied"
        assert not ended(family.child, 0)
        family.parent.kill()
        assert ended(family.child, 2)
    finally:
        family.close()


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path: Path) -> None:
    family = Family(tmp_path)
    try:
        # Opened by the child's reader; it waits until the writer closes.
        with family.gate.open("w"):
            family.parent.kill()
            family.parent.wait(10)
            assert not ended(family.child, 0)
        assert ended(family.child, 5)
    finally:
        family.close()


def test_outside_a_child_of_multiprocessing_nothing_is_tied() -> None:
    script = (
        "import ctypes; from deployments.engines.lifeline import tie_to_parent; tie_to_parent();"
        "signal = ctypes.c_int(-1); ctypes.CDLL(None).prctl(2, ctypes.byref(signal)); print(signal.value)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert answer.stdout == "0\n"


def test_vllm_finds_the_lifeline_among_its_plugins() -> None:
    from importlib.metadata import entry_points

    from deployments.engines.lifeline import tie_to_parent

    (found,) = entry_points(group="vllm.general_plugins", name="themis")
    assert found.load() is tie_to_parent
