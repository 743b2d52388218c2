"""What this machine can reach at most: products and bandwidth."""
