"""Contracts and pure functions that everything else builds on: images, masks, crops, tables, samples, vocabulary."""
