"""Predictions for files that are larger than memory."""
