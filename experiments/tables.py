"""Tables of documents that are made from stored figures."""

from __future__ import annotations

END = "<!-- end of table -->"


def replace_table(text: str, command: str, table: str) -> str:
    """Return a document with the table that a command makes, between the command's mark and the next end mark, made new.

    Raises:
        ValueError: the marks are missing.
    """
    begin = f"<!-- table: {command} -->\n"
    start = text.index(begin) + len(begin)
    return text[:start] + table + "\n" + text[text.index(END, start) :]
