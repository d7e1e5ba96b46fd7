"""Each alarm of a training run, tripped by a fault that is planted in a real small model."""

import math
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components import alarms, checkpoint, encoders, families, supervision, training
from components.errors import AtelierError
from components.modalities.image.batch import Images, ImageSpec
from components.recipe import Candidate, Train
from components.store import Store
from tests.components.families.family_contract import Rows
from tests.components.families.image_rows import blobs
from tests.components.prepared_pictures import prepared

SPEC = ImageSpec(channels=1, size=8, classes=("left", "right"))
SMALL: dict[str, dict[str, Any]] = {
    "vae": {"latent_dim": 4, "width": 4, "hidden": 16},
    "dcgan": {"latent_dim": 4, "width": 4},
    "wgan_gp": {"latent_dim": 4, "width": 4, "critic_steps": 3},
    "stylegan2": {"latent_dim": 4, "width": 4, "path_weight": 2.0},
    "diffusion": {"width": 8},
}


def model(name: str, **changed: Any) -> training.AnyFamily:
    torch.manual_seed(0)
    return training.build(Candidate(family=name, config={**SMALL[name], **changed}), SPEC)


def rows(*, broken_at: int | None = None) -> Any:
    """Batches of one kind without end; one picture of the batch of that step is no number."""

    def batches(start: int) -> Iterator[Images]:
        for step in count(start + 1):
            batch = blobs(8)
            if step == broken_at:
                batch.pixels[3, 0, 2, 2] = math.nan
            yield batch

    return batches


class Levels:
    """An encoder whose features are the pixels; the class says which half is brighter."""

    def features(self, batch: Any) -> Tensor:
        pixels: Tensor = batch.pixels
        return pixels.flatten(1)

    def labels(self, features_BD: Tensor) -> Tensor:
        left, right = features_BD.unflatten(1, (8, 8)).chunk(2, dim=2)
        return (right.sum((1, 2)) > left.sum((1, 2))).long()


def variety(family: training.AnyFamily) -> alarms.Variety:
    """Watching against what the model draws itself, from other seeds: it need not learn anything first."""
    controls = families.get(type(family).__module__.rsplit(".", 1)[-1]).Controls()
    drawn = family.eval().sample(list(range(64)), controls=[controls] * 64)
    assert isinstance(drawn, Images)
    return alarms.Variety.of(Rows(drawn), Levels(), classes=2, controls=controls, spec=SPEC)


@pytest.mark.parametrize("values", [[1.0, 999.0, 0.1], [-500.0, -600.0, 300_000.0], [0.0, 0.0, 800.0, 1.0]])
def test_losses_near_their_scale_are_no_alarm(values: list[float]) -> None:
    scale = alarms.Scale()
    for value in values:
        scale.take({"critic/distance": value, "critic/penalty": 0.0})
    assert scale.beyond == 0


def test_a_part_that_is_small_beside_another_may_grow_from_nothing() -> None:
    """As a VAE's divergence does beside its reconstruction."""
    watch = alarms.Divergence()
    for divergence in (0.0, 0.01, 5e3, 8e3, 9e3):
        watch.take({"main/reconstruction": 3e3, "main/divergence": divergence})
    assert watch.found(patience=1) is None


def test_what_it_knows_follows_from_the_curves() -> None:
    watch, curves = alarms.Divergence(), dict[str, list[tuple[int, float, float]]]()
    for step, losses in enumerate([{"a/x": 1.0, "b/y": 2.0}, {"a/x": 1e4}, {"a/x": -2e4, "b/y": 3.0}]):
        watch.take(losses)
        for name, value in losses.items():
            curves.setdefault(name, []).append((step, 0.0, value))
    assert alarms.Divergence.of(curves) == watch
    assert watch.found(patience=2) == "a/x is -2e+04, more than 1000 times its usual size (1),"
    assert watch.found(patience=3) is None


def test_readings_far_beyond_the_median_are_counted_until_one_comes_back() -> None:
    scale, seen = alarms.Scale(), []
    for value in (3.0, 2.0, 4.0, 1e4, -1e5, 1e9, 5.0, 4001.0):
        scale.take({"main/loss": value})
        seen.append(scale.beyond)
    assert seen == [0, 0, 0, 1, 2, 3, 0, 1]
    assert scale.healthy == [2.0, 3.0, 4.0, 5.0]  # what is beyond the scale is no part of it


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "stylegan2", "diffusion"])
def test_a_learning_rate_of_a_thousand_trips_the_alarm_of_divergence(name: str, tmp_path: Path) -> None:
    loop = training.Loop(
        model(name, lr=1e3), Train(steps=30, batch_size=8, checkpoint_every=1), checkpoints=tmp_path, job="job"
    )
    with pytest.raises(AtelierError, match=r"training diverged: [\w./]+ is .* of 30\..* learning rate"):
        loop.run(rows())
    assert loop.step < 30


def test_a_finite_loss_beyond_its_scale_stops_the_run_before_it_is_nan() -> None:
    loop = training.Loop(model("vae"), Train(steps=30, batch_size=8))
    honest = loop.family.loss
    loop.family.loss = lambda phase, batch, *, step, generator: _scaled(  # type: ignore[method-assign]
        honest(phase, batch, step=step, generator=generator), 1e5 if step >= 10 else 1.0
    )
    with pytest.raises(AtelierError, match=r"main/bound is [\d.e+]+, more than 1000 times its usual size"):
        loop.run(rows())
    assert loop.step == 10 + alarms.PATIENCE


def test_one_spike_that_comes_back_stops_nothing_and_one_at_the_end_does() -> None:
    for spike, stops in ((10, False), (29, True)):
        loop = training.Loop(model("vae"), Train(steps=30, batch_size=8))
        honest = loop.family.loss
        loop.family.loss = lambda phase, batch, *, step, generator, honest=honest, spike=spike: _scaled(  # type: ignore[method-assign]
            honest(phase, batch, step=step, generator=generator), 1e5 if step == spike else 1.0
        )
        if stops:
            with pytest.raises(AtelierError, match="training diverged"):
                loop.run(rows())
        else:
            assert loop.run(rows())


def _scaled(loss: Any, by: float) -> Any:
    """The same total, with parts that tell of a larger one."""
    return type(loss)(loss.total, {name: by * part for name, part in loss.parts.items()})


@pytest.mark.parametrize("name", ["vae", "dcgan", "diffusion"])
def test_a_picture_that_is_no_number_stops_the_run_and_the_checkpoint_before_it_samples(
    name: str, tmp_path: Path
) -> None:
    settings = Train(steps=400, batch_size=8, checkpoint_every=4)  # losses are read every other step
    loop = training.Loop(model(name), settings, job="job", checkpoints=tmp_path)
    with pytest.raises(AtelierError, match=r"training diverged: \w+/\w+ is nan at step 12 of 400\. The checkpoint of"):
        loop.run(rows(broken_at=11))
    again = model(name)
    kept = checkpoint.resume(tmp_path, "job", again, again.optimizers())
    assert kept.step == loop.kept == 8
    controls = families.get(name).Controls()
    drawn = again.eval().sample([1, 2], controls=[controls] * 2)
    assert isinstance(drawn, Images) and drawn.pixels.isfinite().all()
    assert training.Loop(model(name), settings, job="job", checkpoints=tmp_path).step == 8


def test_a_nan_between_two_readings_is_not_read_over() -> None:
    """The loss of the step that is read may be a number again."""
    loop = training.Loop(model("vae"), Train(steps=4000, batch_size=8, checkpoint_every=4000))
    loop.step = 2
    loop._gather({"main/bound": torch.tensor(math.nan)})
    loop._gather({"main/bound": torch.tensor(1.0)})
    with pytest.raises(AtelierError, match="main/bound is nan"):
        loop._read(1.0)


def test_curves_hold_the_mean_of_what_ran_since_the_last_reading() -> None:
    loop = training.Loop(model("vae"), Train(steps=800, batch_size=8))  # a reading every fourth step
    parts: list[float] = []
    honest = loop.advance

    def advance(batch: Images) -> dict[str, Tensor]:
        made = honest(batch)
        parts.append(float(made["main/bound"]))
        return made

    loop.advance = advance  # type: ignore[method-assign]
    loop.signs = training.Signs(stop=lambda: loop.step == 9)
    with pytest.raises(training.Stopped):
        loop.run(rows())
    curve = [(step, value) for step, _, value in loop.curves["main/bound"]]
    wanted = [(1, parts[0]), (4, sum(parts[1:4]) / 3), (8, sum(parts[4:8]) / 4), (9, parts[8])]
    assert [step for step, _ in curve] == [step for step, _ in wanted]
    assert [value for _, value in curve] == pytest.approx([value for _, value in wanted], rel=1e-5)


@pytest.mark.parametrize(("name", "config"), [("stylegan2", {"r1_every": 7, "path_every": 7}), ("wgan_gp", {})])
def test_a_phase_that_no_reading_meets_is_in_the_curves(name: str, config: dict[str, Any]) -> None:
    loop = training.Loop(model(name, **config), Train(steps=1000, batch_size=8, checkpoint_every=1000))
    loop.signs = training.Signs(stop=lambda: loop.step == 15)  # read at 1, 5, 10 and 15
    with pytest.raises(training.Stopped):
        loop.run(rows())
    found = {part: [step for step, _, _ in curve] for part, curve in loop.curves.items()}
    rare = {"stylegan2": ("r1/penalty", [1, 10, 15]), "wgan_gp": ("generator/loss", [1, 5, 10, 15])}[name]
    assert found[rare[0]] == rare[1]


def _flat(family: training.AnyFamily) -> None:
    """Zero what makes the served pictures, so that every sample is the same."""
    for served in family.served:
        last = [layer for layer in getattr(family, served).modules() if isinstance(layer, nn.ConvTranspose2d)][-1]
        nn.init.zeros_(last.weight)


@pytest.mark.parametrize("name", ["vae", "dcgan"])
def test_a_generator_without_variety_is_on_record_or_ends_the_run(name: str, tmp_path: Path) -> None:
    def loop(then: str) -> training.Loop:
        settings = Train(steps=40, batch_size=8, checkpoint_every=4, alarms={"collapse": then})
        still = model(name, lr=1e-7, **({"average_decay": 0.0} if name == "dcgan" else {}))
        settle = training.Loop(still, settings)
        for batch in islice(rows()(0), 30):  # the statistics of its batch norms, which are what samples hang on
            settle.advance(batch)
        made = training.Loop(still, settings, job=then, checkpoints=tmp_path / then, variety=variety(still))
        assert made.variety is not None
        made.variety.spent = -1000.0  # a run so short has no time for looks
        honest = made.family.after_step

        def after_step(step: int) -> None:
            honest(step)
            if step >= 19:
                _flat(made.family)

        made.family.after_step = after_step  # type: ignore[method-assign]
        return made

    warned = loop("warn")
    assert warned.run(rows()) and len(warned.warnings) == 1
    assert "samples lost their variety: on a fixed sample recall 0" in warned.warnings[0]
    assert "at step 24 of 40" in warned.warnings[0]
    stopped = loop("stop")
    with pytest.raises(AtelierError, match=r"lost their variety.*at step 24 of 40\. The checkpoint of step 16.*warn"):
        stopped.run(rows())
    again = model(name)
    assert checkpoint.resume(tmp_path / "stop", "stop", again, again.optimizers()).step == 16


def test_few_classes_or_no_recall_is_poor_and_real_rows_are_not() -> None:
    watched = variety(model("dcgan"))
    assert not watched._is_poor(watched.measure(watched.real_MD))
    left = watched.real_MD[Levels().labels(watched.real_MD) == 0]
    assert 8 < len(left) < 56 and watched._is_poor(watched.measure(left))
    assert watched._is_poor(watched.measure(watched.real_MD + 100))


def test_it_looks_at_no_young_model_and_no_more_often_than_its_share_of_time() -> None:
    family = model("vae")
    watched = variety(family)
    assert not watched.due(family, 9, 40, 1e9) and watched.cost == 0
    assert not watched.due(family, 10, 40, 0.0) and watched.cost > watched.spent > 0  # foretold by a part of a look
    assert watched.due(family, 10, 40, 1e3)
    watched.spent = watched.cost = 1.0
    assert not watched.due(family, 20, 40, 39.0) and watched.due(family, 20, 40, 40.0)


def test_a_run_with_an_encoder_watches_its_samples_and_trains_to_the_same_weights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shards = prepared(store, train=64, held_out=16)
    encoder = encoders.fit(shards, modality="image", store=store)
    made = Candidate(family="vae", config=SMALL["vae"], train=Train(steps=8, batch_size=8, checkpoint_every=2))
    one, other = (
        training.train(
            "small", made, shards, job=f"{eyes}", modality="image", store=store,
            checkpoints=tmp_path / "checkpoints", report=lambda progress: None, encoder=eyes,
        )
        for eyes in (encoder, None)
    )  # fmt: skip
    assert one.weights == other.weights and other.warnings == ()


@pytest.mark.slow
def test_a_training_process_watches_too(tmp_path: Path) -> None:
    """A model that never learns draws one grey picture again and again."""
    store = Store(tmp_path)
    shards = prepared(store, train=300, held_out=16)
    settings = Train(steps=1500, batch_size=8, checkpoint_every=100, alarms={"collapse": "stop"})
    made = Candidate(family="vae", config={**SMALL["vae"], "lr": 1e-12}, train=settings)
    with pytest.raises(AtelierError, match=r"candidates.small: samples lost their variety: .* at step \d+ of 1500"):
        supervision.train(
            "small", made, shards, job="job", modality="image", store=store, checkpoints=tmp_path / "checkpoints",
            report=lambda reading: None, encoder=encoders.fit(shards, modality="image", store=store),
        )  # fmt: skip
