"""Benchmarks of the search: nothing here is needed to run it."""
