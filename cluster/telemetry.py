"""What every process of ours does first: its life tied to the raylet's, a check that our packages are ours, logs."""

import logging
import os
import sys

from deployments.config import GatewayConfig
from deployments.engines.lifeline import tie_to


def prepare(gateway: GatewayConfig | None = None) -> None:
    """Harmless when called twice. A gateway also warns of what its environment lacks."""
    from cluster.environment import lacking  # noqa: PLC0415 - they, too, are of the packages that are checked
    from cluster.origin import check_origin  # noqa: PLC0415

    check_origin()
    tie_to(os.getppid())
    logger = logging.getLogger("themis")
    if not logger.handlers:
        # NOTE: Serve puts a logger in the place of sys.stderr, which looks at the stack for every line: a third of what
        # a unary call costs. The descriptor itself is the process's own file among Ray's logs.
        handler = logging.StreamHandler(sys.__stderr__)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for lack in lacking(gateway, os.environ) if gateway else ():
        logger.warning("this Ray was started without a flag that Themis needs: %s", lack)
