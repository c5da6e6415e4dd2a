"""Benchmark sweeps and their tables."""
