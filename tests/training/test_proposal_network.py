"""Training the proposal network: exact resume, what is passed through, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.core.files import CURVES
from ovseg.core.options import ProposalNetworkOptions
from ovseg.core.vocabulary import embed
from ovseg.engine.runtime import Runtime
from ovseg.proposals.network_folder import METADATA, load_network, save_network
from ovseg.segmentation.segmenter import Segmenter
from ovseg.training import proposal_network as module
from ovseg.training.annotated_dataset import Scene
from ovseg.training.distributed import World
from ovseg.training.mask_objective import MaskObjective, mask_step
from ovseg.training.proposal_network import train_proposal_network
from tests.conftest import THINGS, Coco, Toys
from tests.proposals.tiny_models import swin_config
from tests.toys import noise, tiny_model

WEIGHTS, DILATIONS = "model.safetensors", [2]
OPTIONS = ProposalNetworkOptions(
    annotations=Path("given by the fixture"),
    licence="Apache-2.0",
    backbone="test_resnet",
    pretrained=False,
    num_queries=5,
    hidden_dim=32,
    decoder_layers=1,
    dropout=0.1,
    text_proj_dim=16,
    templates="single",
    steps=4,
    batch_size=4,
    min_scale=1.0,
    max_scale=1.5,
    long_side=128,
    lr=1e-3,
    backbone_lr_multiplier=0.5,
    warmup_steps=1,
    clip_norm=1.0,
    precision="fp32",
).model_copy(update={"crop_size": 32, "short_side": 32})  # smaller than a user may choose


def change(options: ProposalNetworkOptions, **changes: Any) -> ProposalNetworkOptions:
    return options.model_copy(update=changes)


LONGER = change(OPTIONS, steps=20, lr=3e-3, backbone_lr_multiplier=1.0, precision="bf16")


Train = Callable[..., Path]


@pytest.fixture
def run(index: Path, coco: Coco, toys: Toys, tmp_path: Path) -> Train:
    """Trains into the folder `name`, with unfinished work in a folder of its own."""

    def trained(name: str, options: ProposalNetworkOptions = OPTIONS, init: Path | None = None, **runtime: Any) -> Path:
        train_proposal_network(
            index,
            coco.images,
            toys.clip,
            tmp_path / name,
            Runtime(**{"workers": 1, "work": tmp_path / f"work-{name}", **runtime}),
            change(options, annotations=coco.instances, init=init),
        )
        return tmp_path / name

    return trained


@pytest.fixture(scope="module")
def once(index: Path, coco: Coco, toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a whole training with these options, which several tests read; to be read, not written."""
    folders: dict[str, Path] = {}

    def trained(options: ProposalNetworkOptions = OPTIONS) -> Path:
        key = options.model_dump_json()
        if key not in folders:
            folder = tmp_path_factory.mktemp("once")
            given, runtime = change(options, annotations=coco.instances), Runtime(workers=1, work=folder / "work")
            train_proposal_network(index, coco.images, toys.clip, folder / "out", runtime, given)
            folders[key] = folder / "out"
        return folders[key]

    return trained


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    return all(hashing.sha256_file(first / name) == hashing.sha256_file(second / name) for name in names)


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / CURVES).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_a_trained_network_is_loaded_and_records_what_it_was_made_from(once: Train, toys: Toys) -> None:
    out = once()
    network = load_network(out)
    about = network.metadata
    assert about["names"] == list(THINGS) and about["licence"] == "Apache-2.0" and about["init"] is None
    assert about["recipe"] == OPTIONS.model_dump(exclude={"init", "annotations", "licence"})
    assert (about["short_side"], about["long_side"]) == (32, 128)
    assert [int(row["step"]) for row in curves(out)] == [1, 2, 3, 4]
    assert Segmenter.load(out, toys.clip).segment(noise(0), ["star", "sky"]).labels.shape == (48, 64)


def test_the_same_training_gives_the_same_bytes_and_another_seed_others(run: Train, once: Train) -> None:
    first = once()
    assert same_files(first, run("second"))
    assert not same_files(first, run("other", change(OPTIONS, seed=1)))


def test_all_that_learns_has_learnt(run: Train) -> None:
    """Backbone, decoders, queries and classifier; of attention's keys a bias changes nothing, so its gradient is rounding."""
    options = change(OPTIONS, crop_size=64, steps=2)
    before, after = (load_file(run(str(steps), change(options, steps=steps)) / WEIGHTS) for steps in (0, 2))
    still = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert {name for name in still if not name.endswith("k_proj.bias")} == {"criterion.empty_weight"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_equals_uninterrupted_bit_for_bit(run: Train, once: Train, tmp_path: Path, precision: Any) -> None:
    options = change(OPTIONS, steps=5, precision=precision)
    whole = once(options)
    for _ in range(2):  # 5 steps are 2 + 2 + 1
        with pytest.raises(KeyboardInterrupt):
            run("cut", options, stop_after=2)
        assert not (tmp_path / "cut").exists()
    assert same_files(whole, run("cut", options, stop_after=2))


def test_a_power_cut_costs_the_steps_since_the_last_checkpoint_alone(
    run: Train, once: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = once()
    real, calls = mask_step, []

    def fails_at_third(*args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return real(*args)

    monkeypatch.setattr(module, "mask_step", fails_at_third)
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut", checkpoint_seconds=0)
    assert same_files(whole, run("cut", checkpoint_seconds=0))
    assert len(calls) == 3 + 4 - 2


def test_a_finished_training_is_not_done_again_nor_replaced_by_another(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run("out")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(OvsegError, match="fingerprint"):
        run("out", change(OPTIONS, seed=1))
    monkeypatch.setattr(module, "mask_step", None)
    run("out")
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_no_steps_pass_init_through_whatever_the_options(run: Train, toys: Toys) -> None:
    """Sizes, names, architecture: all are those of the network that is copied."""
    out = run("out", change(OPTIONS, steps=0, hidden_dim=64, short_side=48, licence="CC0"), toys.network)
    for name in ("config.json", METADATA, WEIGHTS):
        assert (out / name).read_bytes() == (toys.network / name).read_bytes()
    assert (out / CURVES).read_text().count("\n") == 1


def test_a_converted_network_with_dilations_is_copied_but_not_trained(run: Train, toys: Toys, tmp_path: Path) -> None:
    network = load_network(toys.network)
    save_network(network.model, tmp_path / "converted", {**network.metadata, "dilations": DILATIONS}, 64, 256)
    with pytest.raises(OvsegError, match=r"converted ResNet with dilations.* set proposal_network\.steps to 0"):
        run("trained", OPTIONS, tmp_path / "converted")
    out = run("out", change(OPTIONS, steps=0), tmp_path / "converted")
    assert load_network(out).metadata["dilations"] == DILATIONS


def test_an_init_of_another_text_tower_is_not_copied_and_trained_on_with_a_warning(
    run: Train, once: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load_network(once(change(OPTIONS, steps=0)))
    other = {**plain.metadata, "probe": plain.metadata["probe"][::-1]}
    save_network(plain.model, tmp_path / "other", other, 32, 128)
    with pytest.raises(OvsegError, match="trained with another text tower"):
        run("copy", change(OPTIONS, steps=0), tmp_path / "other")
    assert not caplog.text
    run("trained", change(OPTIONS, steps=1), tmp_path / "other")
    assert "knows other texts" in caplog.text


def test_images_without_annotations_are_left_out(
    index: Path, coco: Coco, toys: Toys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not trained on as images without any object."""
    truth = json.loads(coco.instances.read_text())
    kept = [record for record in truth["annotations"] if record["image_id"] > 2]
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "annotations": kept}))
    caplog.set_level("INFO", "ovseg")
    options = change(OPTIONS, steps=1, annotations=tmp_path / "truth.json")
    runtime = Runtime(workers=1, work=tmp_path / "work")
    train_proposal_network(index, coco.images, toys.clip, tmp_path / "out", runtime, options)
    assert "2 of 6 images have no annotations and are left out" in caplog.text


def test_no_steps_without_init_give_the_weights_of_the_seed(run: Train, once: Train) -> None:
    none = change(OPTIONS, steps=0)
    folders = (once(none), run("second", none), run("other", change(none, seed=1)))
    first, second, other_seed = (load_file(folder / WEIGHTS) for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other_seed[name]) for name in first)


def test_training_goes_on_from_init(run: Train, once: Train) -> None:
    first = once(LONGER)
    again = run("again", change(OPTIONS, lr=1e-6), first)
    from_init, from_scratch = (float(curves(folder)[0]["loss"]) for folder in (again, first))
    assert from_init < 0.8 * from_scratch


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dim": 64},
        {"num_queries": 6},
        {"decoder_layers": 2},
        {"text_proj_dim": 17},
        {"backbone": "test_convnext"},
    ],
)
def test_an_init_of_another_shape_is_refused(run: Train, once: Train, changes: dict[str, Any]) -> None:
    plain = once(change(OPTIONS, steps=0))
    with pytest.raises(OvsegError, match=rf"{plain}.*params\.yaml: \d+ "):
        run("out", change(OPTIONS, **changes), plain)


def test_an_init_of_another_vocabulary_fits(run: Train, toys: Toys) -> None:
    """Classes are texts: a network may learn others later. (The toy's classifier is wider than that of OPTIONS.)"""
    out = run("out", change(OPTIONS, text_proj_dim=64), toys.network)
    assert load_network(out).metadata["names"] == list(THINGS)
    assert json.loads((toys.network / METADATA).read_text())["names"] != list(THINGS)


def test_what_is_no_init_is_refused(run: Train, tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"proposal_network\.json"):
        run("out", init=tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(once: Train, precision: Any) -> None:
    rows = [float(row["loss"]) for row in curves(once(change(LONGER, precision=precision)))]
    assert len(rows) == 20 and sum(rows[-4:]) < 0.7 * sum(rows[:4])


def test_the_rate_warms_up_and_falls_to_nothing(run: Train) -> None:
    """Of the last group of the optimiser: linear over 3 steps, then (1 - t)^0.9."""
    rates = [float(row["learning_rate"]) for row in curves(run("out", change(OPTIONS, steps=8, warmup_steps=3)))]
    wanted = [*(1e-3 * (i + 1) / 3 for i in range(3)), *(1e-3 * (1 - i / 5) ** 0.9 for i in range(5))]
    multiplier = rates[3] / wanted[3]  # of the parameter group that is shown
    assert any(multiplier == pytest.approx(value) for value in (1.0, OPTIONS.backbone_lr_multiplier))
    assert rates == pytest.approx([multiplier * rate for rate in wanted], rel=1e-4)


def test_micro_batches_give_about_the_same_training(run: Train, once: Train) -> None:
    """Batch normalization sees less at a time, so it is not the same; the first loss is compared in the mean of five seeds."""
    whole, parts = [], []
    for seed in range(5):
        options = change(OPTIONS, steps=5, seed=seed)
        whole.append([float(row["loss"]) for row in curves(once(options))])
        parts.append([float(row["loss"]) for row in curves(run(f"parts{seed}", options, micro_batch=2))])
    first_whole, first_parts = (sum(losses[0] for losses in trainings) / 5 for trainings in (whole, parts))
    assert first_parts == pytest.approx(first_whole, rel=0.1)
    assert all(one != other for one, other in zip(whole, parts, strict=True))
    assert all(min(losses) < losses[0] for losses in (*whole, *parts))


def alike(first: int, number: int) -> list[Scene]:
    """Scenes of two classes each, so that every part of a batch has as many."""
    scenes: list[Scene] = []
    for i in range(first, first + number):
        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, : 8 + 3 * i], masks[1, :, : 20 - 2 * i] = True, True
        image = torch.from_numpy(noise(i, 32, 32)).permute(2, 0, 1)
        scenes.append({"image": image, "masks": masks, "classes": torch.tensor([i % 3, (i + 1) % 3]), "key": f"{i}"})
    return scenes


ALONE = World(0, 1, torch.device("cpu"))


def gradients(
    clip: Path,
    batch: list[Scene],
    parts: int,
    world: World = ALONE,
    wrap: Callable[[nn.Module], nn.Module] = lambda x: x,
) -> dict[str, Tensor]:
    """The loss and all gradients of a step, with the running statistics of normalization, so that parts can be compared."""
    tower = load_adapted(clip)
    model = tiny_model(tower)
    model.class_predictor.text_embeddings = embed(["star", "key", "boat"], tower.encode_texts, "single", 8)
    # "no object" is as likely as a star, or its gradient may be too small for float32
    model.class_predictor.no_object.data.copy_(model.class_predictor.text_embeddings[0])
    objective = MaskObjective(model, "fp32").eval()
    loss = mask_step(objective, wrap(objective), batch, len(batch) // parts, world)
    by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss, **by_name}


def assert_close(results: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert results.keys() == wanted.keys()
    largest = max(float(tensor.abs().max()) for name, tensor in wanted.items() if name != "loss")
    for name, tensor in wanted.items():
        torch.testing.assert_close(results[name], tensor, atol=1e-5 * largest, rtol=1e-3)


def test_apart_from_batch_normalisation_micro_batches_have_the_gradient_of_the_whole(toys: Toys) -> None:
    assert_close(gradients(toys.clip, alike(0, 4), 2), gradients(toys.clip, alike(0, 4), 1))


def test_deep_supervision_is_the_loss_of_the_network_cut_after_each_layer(toys: Toys) -> None:
    tower, batch = load_adapted(toys.clip), alike(0, 2)
    model = tiny_model(tower, decoder_layers=3)
    model.class_predictor.text_embeddings = embed(["star", "key", "boat"], tower.encode_texts, "single", 8)
    objective = MaskObjective(model, "fp32").eval()
    with torch.no_grad():
        whole = float(objective(batch, 4.0, objective.class_weight(batch)))
        decoder = model.model.transformer_module.decoder
        layers, parts = decoder.layers, []
        for k in (1, 2, 3):
            decoder.layers = layers[:k]
            images = (torch.stack([scene["image"] for scene in batch]) / 255 - objective.mean[:, None, None]) / (
                objective.std[:, None, None]
            )
            outputs = model.model(images)
            logits = model.class_predictor(outputs.transformer_decoder_last_hidden_state)
            embedded = model.mask_embedder(outputs.transformer_decoder_last_hidden_state)
            masks = torch.einsum("bqc,bchw->bqhw", embedded, outputs.pixel_decoder_last_hidden_state)
            targets, labels = [scene["masks"].float() for scene in batch], [scene["classes"] for scene in batch]
            parts.append(float(sum(model.get_loss_dict(masks, logits, targets, labels, []).values())))
    assert len(set(parts)) == 3
    assert whole == pytest.approx(sum(parts), rel=1e-4)


def test_every_weight_gets_a_gradient(toys: Toys) -> None:
    """A process of several would wait for one that never comes."""
    model = tiny_model(load_adapted(toys.clip))
    assert gradients(toys.clip, alike(0, 2), 1).keys() - {"loss"} == {name for name, _ in model.named_parameters()}


def test_scenes_without_a_mask_are_learnt_from(toys: Toys) -> None:
    """Their queries learn to say "no object"; alone in a batch they are no division by zero."""
    scene = alike(0, 1)[0]
    nothing: Scene = {**scene, "masks": scene["masks"][:0], "classes": scene["classes"][:0]}
    for batch in ([nothing, nothing], [nothing, scene]):
        results = gradients(toys.clip, batch, 1)
        assert all(tensor.isfinite().all() for tensor in results.values())
        assert results["class_predictor.no_object"].any()


def test_all_but_norms_and_embeddings_decays_and_the_backbone_has_a_rate_of_its_own(toys: Toys, tmp_path: Path) -> None:
    """MaskFormer's rule: no decay for normalization layers, embeddings and Swin's position biases; other biases decay."""
    swin_config().save_pretrained(tmp_path)
    model = tiny_model(load_adapted(toys.clip), backbone=str(tmp_path))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in module.parameter_groups(model, 1.0, 0.1, 0.01)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    assert groups.keys() == dict(model.named_parameters()).keys()
    norms = tuple(
        f"{name}." for name, part in model.named_modules() if type(part).__name__ in ("LayerNorm", "GroupNorm")
    )
    assert norms
    for name, (lr, decay) in groups.items():
        embedding = name.endswith(("relative_position_bias_table", "no_object", "queries_embedder.weight"))
        assert decay == (0.0 if name.startswith(norms) or embedding else 0.01), name
        assert lr == (0.1 if ".encoder." in name else 1.0), name
    assert any(name.endswith(".bias") and decay for name, (_, decay) in groups.items())
    assert any(name.endswith("relative_position_bias_table") for name in groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 2, "lr": 1e30, "clip_norm": float("inf"), "warmup_steps": 0}, r"step 2 is (nan|inf)"),
        ({"backbone": "resnet10000"}, "resnet10000"),
    ],
)
def test_what_cannot_be_trained_is_refused(run: Train, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OvsegError, match=message):
        run("out", change(OPTIONS, **changes))
    assert not (tmp_path / "out").exists()


def test_the_images_of_a_loss_that_is_no_number_are_named(run: Train, tmp_path: Path) -> None:
    options = change(OPTIONS, steps=2, lr=1e30, clip_norm=float("inf"), warmup_steps=0)
    with pytest.raises(OvsegError, match=r"Samples of the batch: 00000\d\.jpg"):
        run("out", options)
    listed = next((tmp_path / "work-out").glob("*/not-a-number-0.txt")).read_text().split()
    assert len(listed) == OPTIONS.batch_size and all(name.endswith(".jpg") for name in listed)


def test_full_memory_names_the_micro_batch(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "mask_step", full)
    with pytest.raises(OvsegError, match=r"with 2 samples at a time.*OVSEG_MICRO_BATCH.*without batch normalization"):
        run("out", micro_batch=2)


def test_normalization_over_several_gpus_keeps_the_activations_of_the_backbone(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of timm's own layers, as EfficientNets have them; nothing is computed on a GPU here."""
    tower, batch = load_adapted(toys.clip), alike(0, 2)
    model = tiny_model(tower, backbone="test_efficientnet")
    model.class_predictor.text_embeddings = embed(["star", "key", "boat"], tower.encode_texts, "single", 8)
    pixels = torch.stack([scene["image"] for scene in batch]) / 255
    with torch.no_grad():
        before = model.eval().model(pixels).pixel_decoder_last_hidden_state
    monkeypatch.setattr(MaskObjective, "to", lambda self, _: self)
    data: Any = None
    world = World(0, 2, torch.device("cuda"))
    module.build_loop(model, data, change(OPTIONS, annotations=Path()), Runtime(workers=1), world)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
    with torch.no_grad():
        after = model.eval().model(pixels).pixel_decoder_last_hidden_state
    torch.testing.assert_close(after, before)


def test_annotations_without_categories_are_refused(index: Path, coco: Coco, toys: Toys, tmp_path: Path) -> None:
    truth = json.loads(coco.instances.read_text())
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "categories": []}))
    options = change(OPTIONS, annotations=tmp_path / "truth.json")
    with pytest.raises(OvsegError, match=r"truth\.json.*categories"):
        train_proposal_network(index, coco.images, toys.clip, tmp_path / "out", Runtime(work=tmp_path / "w"), options)


def test_classes_of_a_table_that_are_not_seen_are_not_learnt(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "names": ["star", "asterisk"]},
        {"id": 3, "names": ["key"], "seen": False},
        {"id": 2, "names": ["sky"]},
    ]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": rows}))
    assert module.vocabulary(tmp_path, tmp_path, tmp_path / "classes.json") == ["star", "sky"]
    assert module.find_class_table(tmp_path, None) == tmp_path / "classes.json"
    assert len(module.vocabulary(tmp_path, tmp_path, module.find_class_table(tmp_path, "cocostuff156"))) == 156
    with pytest.raises(OvsegError, match="cocostuf"):
        module.find_class_table(tmp_path, "cocostuf")
