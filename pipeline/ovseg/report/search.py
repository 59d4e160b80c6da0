"""What `ovseg-mine search` does: the regions of a run that are nearest to a text or an image, as a page and as lines."""

from __future__ import annotations

from pathlib import Path

from ovseg.clip.names import parse
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions
from ovseg.engine.runtime import devices
from ovseg.mining.run import RUN, read_options
from ovseg.mining.search import embed_image, embed_text, load_searcher, nearest_regions
from ovseg.report.browser import write_search


def search_run(
    run: Path,
    out: Path,
    *,
    text: str | None,
    image: Path | None,
    number: int,
    clip: str | None = None,
    images: Path | None = None,
    device: str = "auto",
) -> str:
    """Find regions, and write them to a page.

    Args:
        run: the folder of the tables of a run.
        out: the HTML file.
        text, image: what to search for; one of them.
        number: the number of regions, from 1 on.
        clip: the CLIP that scored, as for `ovseg-mine run`; None for the one that run.json states.
        images: the folder of the images; None for the one that run.json states.
        device: the torch device, or "auto".

    Returns:
        a line for each region, best first: similarity, noun, image id and number of the mask.

    Raises:
        OvsegError: the run has no regions or does not say what is not given; they are of another CLIP; or the image cannot be
            read.
    """
    clip_options, folder = _settings(run, clip, images)
    searcher, score = load_searcher(run / "candidates", clip_options, devices(device)[0])
    query = embed_image(searcher, image) if image else embed_text(searcher, text or "", score.templates)
    found = nearest_regions(run / "candidates", query, number)
    write_search(run, folder, found, text or str(image), out)
    lines = [f"{r['similarity']:.3f}  {r['noun']}, image {r['image_id']}, mask {r['proposal']}" for r in found]
    return "\n".join([*lines, f"-> {out}"])


def _settings(run: Path, clip: str | None, images: Path | None) -> tuple[ClipOptions, Path]:
    """The CLIP and the folder of the images; those given come before those of run.json."""
    if clip and images and not (run / RUN).is_file():
        model, pretrained = parse(clip)
        return ClipOptions(model=model, pretrained=pretrained), images
    if not (run / RUN).is_file():
        raise OvsegError(f"{run} has no {RUN} that states its CLIP and images; give --clip and --images")
    options = read_options(run)
    model, pretrained = parse(clip) if clip else (options.clip.model, options.clip.pretrained)
    return ClipOptions(model=model, pretrained=pretrained), images or options.index.images
