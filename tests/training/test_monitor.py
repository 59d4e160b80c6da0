"""A training is watched on held-out masks: the figure is that of `measure`, and watching changes neither weights nor resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import with_regions
from ovseg.core.errors import OvsegError
from ovseg.core.files import CURVES
from ovseg.core.options import CropOptions, HeldoutOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.training.adapt import adapt
from ovseg.training.monitor import FIGURE, Monitor, read_heldout
from tests.conftest import Coco
from tests.training.test_adapt import FINETUNE, PROMPT, SOURCE, Options, change, same, same_files, weights

CROP = CropOptions()
EVERY = 3


def split(coco: Coco) -> HeldoutOptions:
    return HeldoutOptions(images=coco.images, annotations=coco.instances, templates="single")


def measured(clip: Clip, heldout: HeldoutOptions) -> float:
    """What the stage `measure` measures."""
    options: dict[str, Any] = {"fill": CROP.fill, "antialias": CROP.antialias, "templates": heldout.templates}
    scores = measure_mask_accuracy({"clip": clip}, heldout.images, heldout.annotations, batch_size=8, **options)
    return scores["clip"]["mask_accuracy"]


def curve(folder: Path) -> list[float]:
    with (folder / CURVES).open() as stream:
        return [float(row[FIGURE]) for row in csv.DictReader(stream, delimiter="\t")]


@pytest.mark.parametrize("options", [FINETUNE, PROMPT])
def test_it_is_the_mask_accuracy_of_the_present_weights_and_changes_none(
    base: Path, shards: Path, coco: Coco, tmp_path: Path, options: Options
) -> None:
    def train(name: str, every: int, **runtime: Any) -> Path:
        work = Runtime(workers=0, work=tmp_path / f"work-{name}", **runtime)
        adapt(base, shards, tmp_path / name, work, change(options, heldout_every=every), CROP, SOURCE, split(coco))
        return tmp_path / name

    watched, unwatched = train("watched", 4), train("unwatched", 0)
    assert same(watched, unwatched) == weights(watched).keys()
    before, after = (measured(load_adapted(folder), split(coco)) for folder in (base, watched))
    assert curve(watched) == pytest.approx([before] * 3 + [curve(watched)[3]] * 4 + [after], abs=1e-6)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", 4, stop_after=5)
    assert same_files(watched, train("stopped", 4))


def test_an_encoder_of_one_pass_is_measured_as_such(base: Path, coco: Coco) -> None:
    clip = with_regions(load_adapted(base), RegionSettings("region_tokens", 1))
    heldout = read_heldout(clip, split(coco), CROP)
    assert heldout.accuracy(clip) == pytest.approx(measured(clip, split(coco)), abs=1e-6)


def test_a_split_without_images_is_an_error(base: Path, coco: Coco, tmp_path: Path) -> None:
    elsewhere = split(coco).model_copy(update={"images": tmp_path})
    with pytest.raises(OvsegError, match=r"no mask of .* can be read"):
        read_heldout(load_adapted(base), elsewhere, CROP)


def test_it_says_how_far_the_training_is_from_its_start(caplog: pytest.LogCaptureFixture) -> None:
    """Once before the first step, then every N steps; a run that continues does not measure its start again."""
    caplog.set_level("INFO", logger="ovseg")
    values = iter([0.5, 0.625])
    monitor = Monitor("finetune", EVERY, lambda: next(values))
    monitor.start()
    assert [monitor.after(step)[FIGURE] for step in range(1, 5)] == [0.5, 0.5, 0.625, 0.625]
    assert "after 3 steps 0.625 of the held-out masks are recognized (+0.125)" in caplog.text
    continued = Monitor("finetune", EVERY, lambda: 0.75)
    continued.load_state_dict(monitor.state_dict())
    continued.start()
    assert continued.after(4)[FIGURE] == 0.625
    assert continued.after(6)[FIGURE] == 0.75 and "(+0.250)" in caplog.text
