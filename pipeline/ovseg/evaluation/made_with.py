"""What made a table of an evaluation, for the metadata of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ovseg.clip.adapted import made_with
from ovseg.proposals.network_folder import identify_network


def describe_models(network: Path, clips: Mapping[str, Path]) -> dict[str, str]:
    """Return the proposal network and each CLIP as JSON, by keys of the metadata, see `tables.write_part`.

    Args:
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name.
    """
    models = {f"ovseg.clip.{name}": made_with(f"local-dir:{path}", None)["ovseg.clip"] for name, path in clips.items()}
    return {**models, "ovseg.network": json.dumps(identify_network(network), sort_keys=True)}
