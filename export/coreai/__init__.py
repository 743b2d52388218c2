"""Exports for Core AI: assets of the deployment and the convolutional forms, executed before they are kept."""
