"""Benchmarks: predictions per second, against peers and ceilings."""
