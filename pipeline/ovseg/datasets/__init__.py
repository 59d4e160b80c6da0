"""Readers and converters of data sets, which all give the same image index and the same benchmark layout."""
