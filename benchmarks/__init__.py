"""Measurements, not tests: `python -m benchmarks [NAME ...]` (see README.md)."""
