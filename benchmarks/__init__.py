"""One question per module: each measures, prints a table, and writes the same figures as JSON."""
