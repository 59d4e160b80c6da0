"""Examples in the help of commands: their lines are kept, and can be pasted into a shell."""

from __future__ import annotations

import re

WIDTH = 74  # of the lines of an example
MARK = "\n\nExample: "
PART = re.compile(r'(?:--\S+ )?(?:"[^"]*"|(?!--)\S+)|--\S+')
"""A word, a quoted text, or an option with its value."""


def show_example(text: str) -> str:
    """Return a help text whose last paragraph, "Example: COMMAND", is shown on lines that a shell reads as one command.

    Args:
        text: the help of a command; without an example it stays as it is.
    """
    about, mark, example = text.partition(MARK)
    if not mark:
        return text
    lines = [""]
    for part in PART.findall(" ".join(example.split())):
        if len(f"{lines[-1]} {part} \\") > WIDTH:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    command = " \\\n".join(f"  {line}" for line in lines)
    return f"{about}\n\n\b\nExample:\n{command}"  # click does not fill a paragraph that begins with \b
