"""Benchmarks of speed and memory, compared within one run: `python -m benchmarks [NAME ...]` or `make bench`."""
