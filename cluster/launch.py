"""Starts Themis on this machine and stops it again: up() is the life of a launcher from its first check to its end.

Start in order, stop in reverse. Knows nothing of what the application does.
"""

import logging
import os
import select
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import environment, processes, readiness
from cluster.config import APPLICATION, ServeConfig, load
from cluster.origin import check_origin
from cluster.prepare import prepare
from cluster.readiness import LaunchFailed, say
from cluster.state import Run, StateFolder

# Ctrl-C must be done within 20 s: so long may calls and replicas take to end; the rest is for what must be killed.
_DRAIN_S = 12.0
_LEAVE_S = 3.0  # to leave a Ray that still runs; leaving one that was killed takes 7 s
_POLL_S = 0.1
_OBJECT_STORE_BYTES = 256 * 2**20  # Ray objects carry control messages only; Ray's default is 30 % of the memory
_REST_S = 60.0  # what a start may take beyond its engines
_HEAD = ("gcs_server", "raylet")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(config_path: Path, *, haproxy: bool = True) -> None:
    """Runs Themis in the foreground until a signal comes.

    Raises Intruder, AlreadyRunning, ConfigFaults (nothing was started then) or LaunchFailed (all is stopped again).
    """
    check_origin()
    state = StateFolder.default()
    with state.held(), _interruptible(), _scratch() as scratch, processes.guarded(state.path):
        environment.set_flags(state, scratch, haproxy=haproxy)
        config = load(config_path)
        environment.set_limits(config.themis.gateway)
        prepare(config.themis)
        _clear(state, (config.port, *(environment.haproxy_ports() if haproxy else ())))
        state.record(Run(os.getpid()))
        try:
            _start(config, state)
            say(readiness.announcement(config, state.local_key()))
            _watch_head()
        except KeyboardInterrupt:
            pass
        finally:
            _stop(state)


def down() -> bool:
    """Stops the Themis of this user, or ends what a killed one left. False when there was nothing."""
    state = StateFolder.default()
    if (run := state.run()) and state.is_held():
        os.kill(run.pid, signal.SIGTERM)
        with state.held(wait=True):
            return True
    with state.held():
        state.forget()
        return bool(processes.end(str(state.path)))


def connect() -> None:
    """Connects this process to the Themis that runs. Raises LaunchFailed when none does."""
    state = StateFolder.default()
    run = state.run()
    if run is None or not run.address or not state.is_held():
        raise LaunchFailed("Themis does not run here; 'themis up' starts it")
    environment.set_access(state)
    import ray  # noqa: PLC0415 - after its flags

    ray.init(address=run.address, namespace=APPLICATION, log_to_driver=False, logging_level=logging.WARNING)


def _clear(state: StateFolder, ports: tuple[int, ...]) -> None:
    """Ends what a killed launcher of ours left, and refuses to start where others hold the ports."""
    if ended := processes.end(str(state.path)):
        say(f"ended what an earlier start left: {', '.join(ended)}")
    if (run := state.run()) and run.session:
        shutil.rmtree(run.session, ignore_errors=True)
    if taken := processes.listeners(ports):
        raise LaunchFailed("\n".join(f"port {port} is taken by {holder}" for port, holder in sorted(taken.items())))


def _start(config: ServeConfig, state: StateFolder) -> None:
    import ray  # noqa: PLC0415 - after its flags, here and below

    say("starting Ray")
    context: Any = ray.init(
        address="local",
        namespace=APPLICATION,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )
    _set_signals()  # Ray put its own handler on SIGTERM
    session = context.address_info["session_dir"]
    state.record(Run(os.getpid(), context.address_info["address"], session))
    say(f"logs: {session}/logs")
    deploy(config.with_key(state.local_key_config()))
    readiness.await_running(APPLICATION, max(pool.start_s for pool in config.themis.pools) + _REST_S)
    readiness.await_ready(config, _REST_S)


def deploy(document: dict[str, Any]) -> None:
    """What `serve deploy` does, without the dashboard that it goes through; what runs already is updated."""
    from ray import serve  # noqa: PLC0415
    from ray.serve.context import _get_global_client  # noqa: PLC0415 - serve.run takes no config file
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    schema = ServeDeploySchema.model_validate(document)
    say("starting Serve")
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        logging_config=schema.logging_config,
    )
    say("starting gateways and engines")
    client = _get_global_client()
    assert client is not None  # Serve was started above
    client.deploy_apps(schema)


def _watch_head() -> None:
    """Returns never: a signal raises KeyboardInterrupt, the death of Ray's head raises LaunchFailed."""
    head = processes.children(_HEAD)
    died, _, _ = select.select([os.pidfd_open(process.pid) for process in head], [], [])
    raise LaunchFailed(f"Ray's head died ({len(died)} of {', '.join(_HEAD)})")


def _stop(state: StateFolder) -> None:
    """Lets calls end, for a time; then ends every process of ours. A second signal ends the waiting."""
    drain = _Drain()
    try:
        if len(processes.children(_HEAD)) == len(_HEAD):  # without Ray's head nothing can end in order
            drain.start()
            say("stopping: running calls may end (Ctrl-C again: at once)")
            if not drain.ended.wait(_DRAIN_S):
                say(f"not everything ended within {_DRAIN_S:.0f} s; the rest is cut")
    except KeyboardInterrupt:
        say("cut")
    finally:
        _ignore_signals()
        drain.enough.set()
        if drain.ident:
            drain.ended.wait(_LEAVE_S)
        processes.end(str(state.path))
        say("stopped")


class _Drain(threading.Thread):
    """Stops all in order; soon after `enough`, without waiting for calls. A thread, as Ray's calls may never return.

    `ended`, since a join that a signal interrupts takes the thread for dead (https://bugs.python.org/issue45274).
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.enough = threading.Event()
        self.ended = threading.Event()

    def run(self) -> None:
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415
        from ray.serve.context import _get_global_client  # noqa: PLC0415

        try:
            # What Serve and Ray report of their own end is no news to a person.
            logging.disable()
            if client := _get_global_client():
                # The applications first: Serve's shutdown ends its proxies at once, and with them every stream.
                client.delete_all_apps(blocking=False)
                while serve.status().applications and not self.enough.wait(_POLL_S):
                    pass
            if not self.enough.is_set():
                serve.shutdown()
            ray.shutdown()
        finally:
            self.ended.set()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A short-lived folder with a short path, as sockets need; nobody else may enter it."""
    folder = Path(tempfile.mkdtemp(prefix="themis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within, every signal that asks to stop raises KeyboardInterrupt."""
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    _set_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_signals() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def _ignore_signals() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
