"""A worker on a Ray cluster, and what its node must have in common with the machine that starts the run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from pydantic import BaseModel

from ovseg import __version__
from ovseg.core.errors import OvsegError
from ovseg.engine.units import Counts, Task, TaskFactory, commit

SHARED = "shared.tmp"  # the file by which a worker knows that it sees the same scratch folder


def paths_in(value: object) -> Iterator[Path]:
    """Iterate over the paths in a task factory: in its fields, and in those of options, lists and mappings in them."""
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from paths_in(getattr(value, field.name))
    elif isinstance(value, BaseModel):
        yield from paths_in(dict(value))
    elif isinstance(value, Mapping):
        yield from paths_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from paths_in(item)


@dataclass(frozen=True)
class Shared:
    """What a node must have in common with the machine that starts the run.

    Attributes:
        here: the folder that the command runs in.
        scratch: the scratch folder.
        token: the text of the file `SHARED` in it.
        paths: paths that the task reads.
        version: the version of ovseg.
    """

    here: Path
    scratch: Path
    token: str
    paths: tuple[Path, ...]
    version: str

    def enter(self, node: str) -> None:
        """Change to the folder of the command, after checking that this node has everything in common.

        Args:
            node: the address of this node, for messages.

        Raises:
            OvsegError: it does not share a folder, or has another version of ovseg.
        """
        if self.version != __version__:
            raise OvsegError(
                f"node {node} has ovseg {__version__}, and the run was started by {self.version}: install the same one on both"
            )
        if not self.here.is_dir():
            raise OvsegError(self._missing(node, self.here))
        os.chdir(self.here)
        probe = self.scratch / SHARED
        if not probe.is_file() or probe.read_text(encoding="utf-8") != self.token:
            raise OvsegError(f"{self._missing(node, self.scratch)} (OVSEG_WORK sets the folder of unfinished work)")
        if missing := next((path for path in self.paths if not path.exists()), None):
            raise OvsegError(self._missing(node, missing))

    @staticmethod
    def _missing(node: str, path: Path) -> str:
        return (
            f"node {node} of the Ray cluster does not share {path} with the machine that starts the run: mount it there "
            "under the same path, or run in folders that all nodes share"
        )


class RayWorker:
    """A worker: an actor of Ray. Its constructor does nothing, since an error of a constructor would lose its message."""

    def join(self, factory: TaskFactory, device: str, shared: Shared) -> str:
        """Get ready, and return the address of the node."""
        import ray

        node: str = ray.util.get_node_ip_address()
        shared.enter(node)
        self.task: Task = factory(device)
        self.folder = shared.scratch
        return node

    def run(self, unit: str) -> Counts:
        """Do one unit."""
        return commit(self.folder, unit, self.task)
