"""Progress of a long step: a bar with rate, ETA and counts on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column

from ovseg.engine.terminal import fit_terminal

log = logging.getLogger("ovseg")

LOG_SECONDS = 10.0  # between two log lines
WIDE = 120  # columns of a terminal with room for a longer bar and the time that has passed


def make_bar(console: Console) -> Bar:
    """Return a bar whose message takes the room that is left in its line, and is cut there."""
    wide = console.width >= WIDE
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("[bold]{task.description:9}"),
        BarColumn(24 if wide else 8),
        TaskProgressColumn(),
        *([TimeElapsedColumn()] if wide else []),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[message]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    ]
    return Bar(*columns, console=console, expand=True)


class Progress:
    """Progress of one step over its units.

    Counts named `dropped.<reason>` are shown as dropped, the others as kept, with their rates.

    Args:
        step: the name of the step.
        units: the number of units.
        unit_name: what the units are called ("units", "steps", "images").
        shown: whether anything is shown; False on all ranks of a training but the first.
    """

    def __init__(self, step: str, units: int, unit_name: str = "units", shown: bool = True) -> None:
        self.step, self.units, self.unit_name, self.shown = step, units, unit_name, shown
        self.counts: Counter[str] = Counter()
        self.done = self.reused = 0
        self.started = self.last_log = time.monotonic()
        self.new_counts: Counter[str] = Counter()  # without those of reused units, for the rates
        self._bar: Bar | None = None
        if shown and sys.stderr.isatty():
            self._bar = make_bar(Console(stderr=True))
            self._task = self._bar.add_task(step, total=units, message="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is not None and self.shown:
            message = "%s: stopped after %d of %d %s; what is finished is kept"
            log.warning(message, self.step, self.done, self.units, self.unit_name)

    def add(self, counts: Mapping[str, int], reused: bool = False, note: str = "") -> None:
        """Record one finished unit.

        Args:
            counts: the counts of the unit, by name.
            reused: whether an earlier run did the unit; it then does not count in the rates.
            note: a text to show before the counts.
        """
        self.done += 1
        self.reused += reused
        self.counts.update(counts)
        if not reused:
            self.new_counts.update(counts)
        if self._bar:
            self._bar.update(self._task, completed=self.done, message=self._message(note))
        elif self.shown and not reused and time.monotonic() - self.last_log > LOG_SECONDS:
            self.last_log = time.monotonic()
            done = f"{self.done}/{self.units} {self.unit_name}"
            log.info("%s: %s, ETA %s, %s", self.step, done, self._eta(), self._message(note))

    def replace(self, before: Mapping[str, int], counts: Mapping[str, int]) -> None:
        """Record that a finished unit was done once more.

        Args:
            before: the counts that it had.
            counts: the counts that it has now.
        """
        for known in (self.counts, self.new_counts):
            known.subtract(before)
            known.update(counts)

    def warn(self, line: str) -> None:
        """Show a line above the bar, or log it as a warning where there is no bar."""
        if self._bar:
            self._bar.console.print(fit_terminal(line), highlight=False, markup=False)
        elif self.shown:
            log.warning("%s: %s", self.step, line)

    def finish(self, out: Path) -> None:
        """Log the counts of the whole step, its seconds and its output folder."""
        reused = f" ({self.reused} of {self.units} {self.unit_name} were done before)" if self.reused else ""
        seconds = time.monotonic() - self.started
        log.info("%s: %s in %.1f s%s -> %s", self.step, self.summary(), seconds, reused, out)

    def summary(self) -> str:
        """Return the counts as a text: "512 pairs (130/s), dropped 3 missing"."""
        items = []
        seconds = max(time.monotonic() - self.started, 1e-9)
        for name, number in self.counts.items():
            if not name.startswith("dropped."):
                rate = self.new_counts[name] / seconds
                items.append(f"{number:,} {name.replace('_', ' ')}" + (f" ({rate:,.0f}/s)" if rate >= 1 else ""))
        dropped = {name[8:]: n for name, n in sorted(self.counts.items()) if name.startswith("dropped.") and n}
        if dropped:
            items.append("dropped " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in dropped.items()))
        return ", ".join(items)

    def _message(self, note: str) -> str:
        return ", ".join(filter(None, (note, self.summary())))

    def _eta(self) -> str:
        seconds_per_unit = (time.monotonic() - self.started) / max(self.done - self.reused, 1)
        remaining = int(seconds_per_unit * (self.units - self.done))
        return f"{remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d}"
