"""Which form of an artifact serves a request: candidates, proof, measurement, choice."""
