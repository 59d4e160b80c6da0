"""What a person sees of a long step: one bar with rate, ETA, kept and dropped on a terminal, plain lines elsewhere."""

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
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

log = logging.getLogger("ovseg")

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Progress of one step over its units.

    Counts named `dropped.<reason>` are shown as dropped, the others as kept, with their rates.

    Args:
        step: its name.
        units: how many there are.
        word: what they are called.
        shown: False says nothing (all ranks of a training but one).
    """

    def __init__(self, step: str, units: int, word: str = "units", shown: bool = True) -> None:
        self.step, self.units, self.word, self.shown = step, units, word, shown
        self.counts: Counter[str] = Counter()
        self.done = self.reused = 0
        self.begun = self.last = time.monotonic()
        self.fresh: Counter[str] = Counter()
        self._bar: Bar | None = None
        if shown and sys.stderr.isatty():
            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("[bold]{task.description:9}"),
                BarColumn(24),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[said]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(step, total=units, said="")

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
            said = "%s: stopped after %d of %d %s; what is finished is kept"
            log.warning(said, self.step, self.done, self.units, self.word)

    def add(self, counts: Mapping[str, int], reused: bool = False, note: str = "") -> None:
        """Note one finished unit; `reused` ones were done by an earlier run and do not count in the rate."""
        self.done += 1
        self.reused += reused
        self.counts.update(counts)
        if not reused:
            self.fresh.update(counts)
        if self._bar:
            self._bar.update(self._task, completed=self.done, said=", ".join(filter(None, (note, self.summary()))))
        elif self.shown and not reused and time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            said = ", ".join(filter(None, (note, self.summary())))
            log.info("%s: %d/%d %s, ETA %s, %s", self.step, self.done, self.units, self.word, self._eta(), said)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        elif self.shown:
            log.warning("%s: %s", self.step, line)

    def finish(self, out: Path) -> None:
        """Say the end of the step."""
        again = f" ({self.reused} of {self.units} {self.word} were done before)" if self.reused else ""
        seconds = time.monotonic() - self.begun
        log.info("%s: %s in %.1f s%s -> %s", self.step, self.summary(), seconds, again, out)

    def summary(self) -> str:
        """Counts in words: "512 pairs (130/s), dropped 3 missing"."""
        said = []
        seconds = max(time.monotonic() - self.begun, 1e-9)
        for name, number in self.counts.items():
            if not name.startswith("dropped."):
                rate = self.fresh[name] / seconds
                said.append(f"{number:,} {name.replace('_', ' ')}" + (f" ({rate:,.0f}/s)" if rate >= 1 else ""))
        dropped = {name[8:]: n for name, n in sorted(self.counts.items()) if name.startswith("dropped.") and n}
        if dropped:
            said.append("dropped " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in dropped.items()))
        return ", ".join(said)

    def _eta(self) -> str:
        fresh = self.done - self.reused
        left = (time.monotonic() - self.begun) / max(fresh, 1) * (self.units - self.done)
        return f"{int(left // 3600)}:{int(left // 60) % 60:02d}:{int(left) % 60:02d}"
