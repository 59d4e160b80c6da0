"""Scores: mask accuracy, benchmarks, metrics."""
