"""When a start is done: the application runs, the gateway is ready, and a person is told how to use it."""

import http.client
import json
import shlex
import sys
import time

from cluster.config import ServeConfig


class LaunchFailed(Exception):
    """Themis could not start, or fell over while it ran."""


def say(text: str) -> None:
    """Tells the person at the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def await_running(application: str, limit_s: float) -> None:
    """Returns once Serve says so. Raises LaunchFailed, with Serve's reasons, when it gives up or takes longer."""
    from ray import serve  # noqa: PLC0415 - after its flags

    deadline = time.monotonic() + limit_s
    told = ""
    while True:
        app = serve.status().applications[application]
        troubles = "\n".join(f"{name}: {each.message}" for name, each in app.deployments.items() if each.message)
        if app.status == "RUNNING":
            return
        if app.status == "DEPLOY_FAILED" or time.monotonic() > deadline:
            raise LaunchFailed(f"the application is {app.status}: {app.message}\n{troubles}".strip())
        if troubles != told:
            told = troubles
            say(troubles)
        time.sleep(0.2)  # Serve has no event to wait for


def await_ready(config: ServeConfig, limit_s: float) -> None:
    """Returns once the gateway's /readyz answers 200. Raises LaunchFailed when it takes longer."""
    deadline = time.monotonic() + limit_s
    answer: object = "nothing"
    while time.monotonic() < deadline:
        gateway = http.client.HTTPConnection(_host(config), config.port, timeout=5)
        try:
            gateway.request("GET", f"{config.route_prefix.rstrip('/')}/readyz")
            answer = gateway.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            answer = error
        finally:
            gateway.close()
        if answer == http.HTTPStatus.OK:
            return
        time.sleep(0.1)
    raise LaunchFailed(f"the gateway is not ready: GET /readyz answers {answer}")


def announcement(config: ServeConfig, key: str) -> str:
    """The address, the key, and a call that works when pasted."""
    base = f"{_url(config)}/v1"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    body = json.dumps({"model": config.themis.pools[0].name, "messages": question, "max_tokens": 64})
    headers = ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    return f"ready: {base}\nkey: {key}\n{shlex.join(['curl', f'{base}/chat/completions', *headers, '-d', body])}"


def _url(config: ServeConfig) -> str:
    return f"http://{_host(config)}:{config.port}{config.route_prefix.rstrip('/')}"


def _host(config: ServeConfig) -> str:
    return "127.0.0.1" if config.host == "0.0.0.0" else config.host  # noqa: S104 - compared, not bound
