"""Training: from vectors to an artifact."""
