"""An OpenAI-compatible engine without weights: reproducible tokens, a timing model, scripted faults."""

from deployments.engines.simulated.engine import Abort, Simulated

__all__ = ["Abort", "Simulated"]
