"""All of mining in one call, without DVC: what `ovseg-mine run` does. The DVC stages call the same functions."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovseg import __version__
from ovseg.core import hashing
from ovseg.core.crops import Fill
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.options import ProposeOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.nouns import CaptionsPerImage, NounUnit, extract_nouns
from ovseg.mining.propose import propose_masks
from ovseg.mining.select import Rule, select_pairs
from ovseg.mining.shards import write_shards

RUN = "run.json"


@dataclass(frozen=True)
class Settings:
    """What a run's results depend on; the fields are the parameters of the steps, see there."""

    images: str
    captions: str
    source: str
    path: str | None
    model: str | None
    clip_model: str
    clip_pretrained: str | None
    limit: int | None = None
    nouns_model: str = "en_core_web_sm"
    unit: NounUnit = "chunk"
    captions_per_image: CaptionsPerImage = 1
    stop_list: str | None = None
    annotations: str | None = None
    mask_threshold: float = 0.4
    max_proposals: int = 100
    templates: Any = "vild"
    top_k: int = 5
    duplicate_iou: float = 1.0
    precision: Any = "fp32"
    fill: Fill = "mean"
    antialias: bool = True
    rule: Rule = "best"
    min_similarity: float | None = None
    min_margin: float | None = None
    min_area: int = 1
    max_per_noun: int | None = None
    annotated_fraction: float = 0.0
    seed: int = 0
    samples_per_shard: int = 4096
    min_shards: int = 16
    background: Fill = "mean"
    jpeg_quality: int = 95


def mine(settings: Settings, out: Path, runtime: Runtime) -> dict[str, dict[str, int]]:
    """Run every step into `out/<step>`; a killed run continues where it stopped.

    Returns:
        the counts of each step.

    Raises:
        OvsegError: `out` belongs to a run with other settings; or what a step raises.
    """
    check_output_folder(settings, out)
    images, s = Path(settings.images), settings
    index, nouns, proposals = out / "index", out / "nouns", out / "proposals"
    candidates, pairs = out / "candidates", out / "pairs"
    counts = {"index": build_index(images, Path(s.captions), index, runtime, s.limit)}
    counts["nouns"] = extract_nouns(
        index,
        nouns,
        runtime,
        model=s.nouns_model,
        unit=s.unit,
        captions_per_image=s.captions_per_image,
        stop_list=_path(s.stop_list),
    )
    counts["propose"] = propose_masks(
        index,
        images,
        proposals,
        runtime,
        ProposeOptions(
            source=s.source,
            path=_path(s.path),
            model=s.model,
            annotations=_path(s.annotations),
            mask_threshold=s.mask_threshold,
            max_proposals=s.max_proposals,
        ),
    )
    from ovseg.mining.score import score_nouns  # torch and open_clip: not before they are needed

    counts["score"] = score_nouns(
        index,
        images,
        nouns,
        proposals,
        candidates,
        runtime,
        clip_model=s.clip_model,
        clip_pretrained=s.clip_pretrained,
        precision=s.precision,
        fill=s.fill,
        antialias=s.antialias,
        templates=s.templates,
        top_k=s.top_k,
        duplicate_iou=s.duplicate_iou,
    )
    counts["select"] = select_pairs(
        candidates,
        proposals,
        pairs,
        runtime,
        rule=s.rule,
        min_similarity=s.min_similarity,
        min_margin=s.min_margin,
        min_area=s.min_area,
        max_per_noun=s.max_per_noun,
        annotated_fraction=s.annotated_fraction,
        seed=s.seed,
    )
    counts["shards"] = write_shards(
        index,
        images,
        proposals,
        pairs,
        out / "shards",
        runtime,
        samples_per_shard=s.samples_per_shard,
        min_shards=s.min_shards,
        background=s.background,
        jpeg_quality=s.jpeg_quality,
    )
    return counts


def check_output_folder(settings: Settings, out: Path) -> None:
    """Note in `out` whose it is; a run that wrote nothing yet (a typo in a path) has no claim.

    Raises:
        OvsegError: it is another run's, or holds something else.
    """
    key, path = hashing.fingerprint(**asdict(settings)), out / RUN
    others = [p.name for p in out.iterdir() if p.name not in (RUN, f"{RUN}.tmp")] if out.is_dir() else []
    if others and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["fingerprint"] == key:
            return
        old, new = before["settings"], asdict(settings)
        changed = ", ".join(f"{k}: {old.get(k)!r} there, {new[k]!r} now" for k in new if old.get(k) != new[k])
        raise OvsegError(
            f"{out} belongs to another run: its fingerprint is {before['fingerprint']}, this run's is {key} ({changed}). "
            "Give another --out, or remove that folder"
        )
    if others or (out.exists() and not out.is_dir()):
        raise OvsegError(f"{out} exists and is not a run of ovseg-mine; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    write_json(path, {"fingerprint": key, "version": __version__, "started": started, "settings": asdict(settings)})


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
