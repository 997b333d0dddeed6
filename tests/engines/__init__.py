"""One contract, every engine: what clients may rely on whichever engine answers."""
