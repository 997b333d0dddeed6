"""The flags that `themis up` sets, and what a gateway says where they are missing."""

import pytest

from cluster.environment import lacking
from deployments.config import GatewayConfig

RIGHT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
}
GATEWAY = GatewayConfig(deadline_s=50, drain_s=60)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (RIGHT, []),
        ({**RIGHT, "RAY_SERVE_ENABLE_HA_PROXY": "0"}, []),
        ({}, ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"]),
        ({**RIGHT, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}, ["RAY_SERVE_THROUGHPUT_OPTIMIZED"]),
        ({**RIGHT, "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "59"}, ["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]),
    ],
    ids=["all set", "the plain proxy, knowingly", "none set", "not optimised", "a hard stop that cuts calls"],
)
def test_each_flag_that_is_missing_is_named(environ: dict[str, str], said: list[str]) -> None:
    assert [lack.split("=")[0].split(" ")[0] for lack in lacking(GATEWAY, environ)] == said


def test_serves_own_hard_stop_is_too_short_for_the_default_deadline() -> None:
    environ = {name: "1" for name in RIGHT if name != "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"}
    assert "is 120, less than the 600 s" in next(lacking(GatewayConfig(), environ))
