"""What runs: the gateway and its pipeline, the replicas and their engines."""
