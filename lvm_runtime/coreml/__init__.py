"""Core ML packages as the runtime sees them."""
