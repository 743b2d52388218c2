"""Engines of others that run predictions on more than one machine."""
