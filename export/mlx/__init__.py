"""Exports for MLX: flat plans with fp32 weights."""
