"""Helpers of tests/test_crash.py: what to ingest, how to kill it, how to cut its writes short."""
