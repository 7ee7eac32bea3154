"""Thin routes: each knows HTTP and nothing else."""
