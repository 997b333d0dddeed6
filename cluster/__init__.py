"""Where it runs: configuration, the Serve graph, detached actors, launch, command line. The composition root."""
