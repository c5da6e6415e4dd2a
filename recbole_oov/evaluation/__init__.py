"""Ranks, metrics and intervals that a table can be built on."""
