"""The simulated engine's own rules."""
