"""Step `score`: the similarity of each noun to each proposal of its image, by CLIP on masked crops (paper 3.2) or in one pass.

An adapted CLIP scores with its prompts and its region encoder, so that pairs can be mined again with what they taught it.

The paper pairs a noun with the proposal of the highest similarity. `select` uses only similarity and margin; the softmaxes
are stored for analysis.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ovseg.clip.adapted import made_with
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.core import tables
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.core.vocabulary import TEMPLATES
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import Scratch
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import unit_names
from ovseg.mining.region_vectors import vectors_folder
from ovseg.mining.score_unit import ScoreTaskFactory
from ovseg.mining.scorer import check_scorer
from ovseg.mining.texts import encode_nouns

TOTALS = (Total("nouns", "no_proposals", chosen=True), Total("nouns"))  # `propose` judges images without proposals


def score_nouns(
    index: Path,
    images: Path,
    nouns: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    clip: ClipOptions,
    options: ScoreOptions,
    crop: CropOptions,
) -> dict[str, int]:
    """Write the table `candidates`: for each noun the `top_k` proposals of its image that are most similar to it.

    The embeddings of the proposals that `options.keep_regions` names are written beside it, see `mining.regions`. With "all"
    they are kept in the scratch folder, too, and what is there is not encoded again, see `mining.region_vectors`.

    Args:
        index, nouns, proposals: folders of the tables of these names, whose parts correspond one to one: part i of each table
            covers the same images.
        images: folder that the files of the index are relative to.
        out: folder of the table `candidates`.
        runtime: devices, workers, batch size, scratch folder.
        clip: the CLIP that compares.
        options: parameters of the step.
        crop: the crop recipe: background fill and antialiasing, see `core.crops`.

    Returns:
        counts: images and nouns scored, crops encoded, and dropped nouns by reason.

    Raises:
        OvsegError: the CLIP cannot be loaded or cannot score (see `check_scorer`), or a table is missing.
    """
    check_scorer(clip)
    model = weights_fingerprint(clip.model, clip.pretrained)
    key = step_key(
        "score",
        __name__,
        index=tables.fingerprint(index, "index"),
        nouns=tables.fingerprint(nouns, "nouns"),
        proposals=tables.fingerprint(proposals, "proposals"),
        clip=model,
        options=options.model_dump(),
        crop=crop.model_dump(),
        templates=TEMPLATES[options.templates],
        schema=tables.SCHEMA_VERSION,
    )
    scratch = Scratch(runtime.work, key, runtime.fresh, keep=runtime.keep)
    texts_folder = scratch.folder / "texts"  # kept inside this step's scratch folder: locked and deleted with it
    encode = partial(encode_nouns, nouns, proposals, texts_folder, runtime, clip, options.templates, options.precision)
    factory = ScoreTaskFactory(
        index=index,
        images=images,
        nouns=nouns,
        proposals=proposals,
        texts_folder=texts_folder,
        fingerprint=key.fingerprint,
        clip=clip,
        options=options,
        crop=crop,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
        metadata={
            **made_with(clip.model, clip.pretrained),
            tables.MODEL: model,
            tables.SCORE: options.model_dump_json(),
        },
        vectors=vectors_folder(runtime.work, ScoreTaskFactory.__module__, index, proposals, model, options, crop)
        if options.keep_regions == "all"
        else None,
    )
    # run_step calls factory(device) once per process, then the task for each part.
    units = list(unit_names(index))
    return run_step(key, units, factory, out, runtime, uses_model=True, scratch=scratch, totals=TOTALS, prepare=encode)
