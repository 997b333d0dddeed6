"""Ties the processes of an engine to the life of the process that started them.

vLLM calls `tie_to_parent` in each of its processes, as a `vllm.general_plugins` entry point. Without it an engine core
lives on when its replica is killed and no raylet is left to clean up.
"""

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """In a child of multiprocessing, asks the kernel to kill this process when its parent dies; elsewhere, nothing.

    NOTE: the kernel sends the signal when the parent's *thread* that made the child ends. So an engine is started from
    a thread that lives as long as the replica, never from one of a pool.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        tie_to(parent.pid)


def tie_to(parent: int) -> None:
    """Has this process killed when `parent`, which started it, dies; ends it at once when that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # The parent died before the call above: no signal will come.
        os._exit(1)
