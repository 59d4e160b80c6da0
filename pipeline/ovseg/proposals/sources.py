"""The registry of mask sources. To add one, write its file beside this one and add a line to `SOURCES`.

transformers is imported only when a source that needs it is opened.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ProposeOptions
from ovseg.proposals import Source
from ovseg.proposals.ground_truth import check_annotations, ground_truth
from ovseg.proposals.maskformer import maskformer
from ovseg.proposals.precomputed import check_results, precomputed, precomputed_metadata
from ovseg.proposals.proposal_network import proposal_network_source
from ovseg.proposals.sam2 import sam2

log = logging.getLogger("ovseg")


@dataclass(frozen=True)
class MaskSource:
    """How to open a source of masks.

    Attributes:
        open: creates the source from the options, a scratch folder (for indexed copies of files) and a torch device, in the
            process that uses it.
        uses_model: True if it runs the model `propose.model` on the devices; otherwise it reads `propose.path`.
        check: checks that the masks in files are of the images of an index, before any work: from the options, the scratch
            folder and the folder of the index, the counts of ids that lead nowhere (see `datasets.references`).
        on_hub: True if the model may be the name of a repository on the Hugging Face Hub.
    """

    open: Callable[[ProposeOptions, Path, str], Source]
    uses_model: bool = False
    on_hub: bool = False
    check: Callable[[ProposeOptions, Path, Path], dict[str, int]] = lambda _options, _scratch, _index: {}


SOURCES: dict[str, MaskSource] = {
    "proposal_network": MaskSource(
        lambda o, _, device: proposal_network_source(Path(model_of(o)), o.mask_threshold, o.max_proposals, device),
        uses_model=True,
    ),
    "ground_truth": MaskSource(
        lambda o, scratch, _: ground_truth(path_of(o), scratch),
        check=lambda o, scratch, index: check_annotations(path_of(o), scratch, index, labels=False),
    ),
    "precomputed": MaskSource(
        lambda o, scratch, _: precomputed(path_of(o), scratch, o.max_proposals),
        check=lambda o, scratch, index: check_results(path_of(o), scratch, index),
    ),
    "maskformer": MaskSource(
        lambda o, _, device: maskformer(model_of(o), o.mask_threshold, o.max_proposals, device),
        uses_model=True,
        on_hub=True,
    ),
    "sam2": MaskSource(
        lambda o, _, device: sam2(model_of(o), o.max_proposals, device),
        uses_model=True,
        on_hub=True,
    ),
}
"""The sources by their name, which is the value of `propose.source`."""


def mask_source(options: ProposeOptions) -> MaskSource:
    """Return the source that the options name, after checking that its model or path is given.

    Raises:
        OvsegError: there is no such source, its model is not given, or its path is not given or does not exist.
    """
    if options.source not in SOURCES:
        raise OvsegError(f"propose.source={options.source!r} is not a source of masks; there are {', '.join(SOURCES)}")
    source = SOURCES[options.source]
    _ = model_of(options) if source.uses_model else path_of(options)
    return source


def model_of(options: ProposeOptions) -> str:
    """Return the model of a source that runs one.

    Raises:
        OvsegError: it is not given.
    """
    if not options.model:
        raise OvsegError(f"propose.source={options.source!r} needs propose.model: a folder, or a name on the Hub")
    return options.model


def path_of(options: ProposeOptions) -> Path:
    """Return the path of a source that reads files.

    Raises:
        OvsegError: it is not given or does not exist.
    """
    if options.path is None:
        raise OvsegError(f"propose.source={options.source!r} needs propose.path: a file or folder of masks")
    if not options.path.exists():
        raise OvsegError(f"the masks {options.path} of the source {options.source!r} do not exist")
    return options.path


def content_hash(options: ProposeOptions) -> str:
    """Return a hash of the files that the masks of a source come from: its weights, or its masks."""
    source = SOURCES[options.source]
    if not source.uses_model:
        return tables.annotations_hash(path_of(options))
    model = model_of(options)
    if source.on_hub and not Path(model).exists():
        from ovseg.proposals.checkpoint import checkpoint_fingerprint

        return checkpoint_fingerprint(model)
    return tables.content_hash(Path(model))


def table_metadata(options: ProposeOptions) -> dict[str, str]:
    """Return what a table of proposals says of the network that made them.

    Returns:
        the network's identity as JSON (see `weights.Weights`) under "ovseg.network", and its license under `tables.LICENCE`
        if other people have published it, or what it was trained on from, with one. For the table of an earlier run what that
        says; empty for other files.

    Raises:
        OvsegError: files of the model are missing, or the path is another table.
    """
    if not SOURCES[options.source].uses_model:
        return precomputed_metadata(path_of(options)) if options.source == "precomputed" else {}
    model = model_of(options)
    if SOURCES[options.source].on_hub:
        from ovseg.engine import weight_files
        from ovseg.proposals.checkpoint import identify_checkpoint

        identity = asdict(identify_checkpoint(model))
        licence = weight_files.licence(model)
        log.info("%s: license %s; its masks carry it", model, licence or "not stated")
    else:
        from ovseg.proposals.network_folder import identify_network, published_licence

        identity, licence = identify_network(Path(model)), published_licence(Path(model))
    return {"ovseg.network": json.dumps(identity, sort_keys=True)} | ({tables.LICENCE: licence} if licence else {})
