"""Readers and makers of data sets: every one yields the same index and benchmark layout."""
