"""What a model is worth: metrics, baselines, and the gate before an artifact."""
