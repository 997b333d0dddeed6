"""What every process of ours does first: its life tied to the raylet's, a check that our packages are ours, logs."""

import logging
import os
import sys

from deployments.engines.lifeline import tie_to

_LOGGERS = ("themis",)


def prepare() -> None:
    """Harmless when called twice."""
    from cluster.origin import check_origin  # noqa: PLC0415 - it, too, is one of the packages it checks

    check_origin()
    tie_to(os.getppid())
    logger = logging.getLogger("themis")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
