"""What every process of ours does first: structured logs, and a check that our packages are our own."""

import logging
import sys

_LOGGERS = ("themis",)


def prepare() -> None:
    """Harmless when called twice."""
    from cluster.origin import check_origin  # noqa: PLC0415 - it, too, is one of the packages it checks

    check_origin()
    logger = logging.getLogger("themis")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
