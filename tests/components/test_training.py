import contextlib
import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from components import checkpoint, training
from components.errors import AtelierError
from components.families import stylegan2, vae
from components.modalities.image.batch import ImageSpec
from components.recipe import Candidate, Train
from components.store import Store
from tests.components.families.family_contract import Rows
from tests.components.families.image_rows import blobs
from tests.components.prepared_pictures import prepared

SMALL = {"latent_dim": 4, "width": 4, "hidden": 16}


def candidate(**train: Any) -> Candidate:
    return Candidate(family="vae", config=SMALL, train=Train(batch_size=8, **train))


def trained(store: Store, made: Candidate, *, job: str = "job", **signs: Any) -> Any:
    shards = prepared(store, train=64, held_out=16)
    places = {"store": store, "checkpoints": store.root / "checkpoints"}
    signs = {"report": lambda progress: None, **signs}
    return training.train("small", made, shards, job=job, modality="image", **signs, **places)


def loop(**train: Any) -> training.Loop:
    torch.manual_seed(0)
    family = vae.Model(vae.Config(**SMALL), ImageSpec(channels=1, size=8))
    return training.Loop(family, Train(batch_size=8, **train))


def test_a_family_that_takes_nothing_in_is_refused_for_data_that_give_something() -> None:
    with pytest.raises(AtelierError, match="'vae' takes nothing in: leave `degrade` out"):
        training.build(candidate(), ImageSpec(channels=1, size=8, degrade="blur"))


def test_what_it_says_of_a_run(tmp_path: Path) -> None:
    seen: list[training.Progress] = []
    done = trained(Store(tmp_path), candidate(steps=20), report=seen.append)
    assert (done.steps, done.stopped, done.family) == (20, "budget", "vae")
    assert seen[-1].step == 20
    assert seen[-1].seconds_left == 0
    assert all(progress.samples_per_second > 0 for progress in seen)


def test_a_run_cut_off_goes_on_to_the_same_weights_and_another_job_does_not(tmp_path: Path) -> None:
    def cut_off(progress: training.Progress) -> None:
        if progress.step == 15:
            raise KeyboardInterrupt

    whole = trained(Store(tmp_path / "whole"), candidate(steps=20, checkpoint_every=10))
    store, steps = Store(tmp_path / "cut"), list[int]()
    for job, first in (("other", 1), ("job", 11)):
        with pytest.raises(KeyboardInterrupt):
            trained(store, candidate(steps=20, checkpoint_every=10), report=cut_off)
        steps.clear()
        again = trained(
            store,
            candidate(steps=20, checkpoint_every=10),
            job=job,
            report=lambda progress: steps.append(progress.step),
        )
        assert steps[0] == first
        assert again.weights == whole.weights


def test_one_told_to_stop_saves_what_it_has_done_and_goes_on_from_there(tmp_path: Path) -> None:
    store, steps = Store(tmp_path), list[int]()
    whole = trained(Store(tmp_path / "whole"), candidate(steps=20, checkpoint_every=100))
    with pytest.raises(training.Stopped):
        trained(store, candidate(steps=20, checkpoint_every=100), alive=steps.append, stop=lambda: steps[-1] == 7)
    again = trained(store, candidate(steps=20, checkpoint_every=100), alive=steps.append)
    assert steps == list(range(1, 21)) and again.weights == whole.weights


def test_a_run_that_ended_is_not_trained_again_while_its_checkpoint_is_there(tmp_path: Path) -> None:
    store, steps = Store(tmp_path), list[int]()
    first = trained(store, candidate(steps=10))
    assert trained(store, candidate(steps=10), alive=steps.append).weights == first.weights
    assert steps == []


@pytest.mark.parametrize("damage", ["state.json", "step-10.safetensors"])
def test_a_damaged_checkpoint_is_a_fresh_start(tmp_path: Path, damage: str) -> None:
    store, steps = Store(tmp_path), list[int]()

    def cut_off(progress: training.Progress) -> None:
        if progress.step == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(store, candidate(steps=20, checkpoint_every=10), report=cut_off)
    place = tmp_path / "checkpoints" / "job" / damage
    place.write_bytes(place.read_bytes()[:20])
    trained(store, candidate(steps=20, checkpoint_every=10), report=lambda progress: steps.append(progress.step))
    assert steps[0] == 1


@pytest.mark.parametrize("state", [[], {}, {"job": "job", "tensors": "step-10.safetensors", "optimizers": {}}, None])
def test_a_checkpoint_that_says_something_else_is_a_fresh_start(tmp_path: Path, state: Any) -> None:
    store, steps = Store(tmp_path), list[int]()
    with pytest.raises(training.Stopped):
        trained(store, candidate(steps=20), alive=steps.append, stop=lambda: steps[-1] == 10)
    (tmp_path / "checkpoints" / "job" / "state.json").write_text(json.dumps(state))
    steps.clear()
    trained(store, candidate(steps=20), alive=steps.append)
    assert steps[0] == 1


def test_a_checkpoint_that_is_held_is_not_cleared_and_a_cleared_one_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    with checkpoint.held(folder):
        checkpoint.clear(folder)
        assert folder.is_dir()
    checkpoint.clear(folder)
    assert list(tmp_path.iterdir()) == []
    with checkpoint.held(folder):
        pass


def test_a_time_limit_stops_a_run_and_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=0.2)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    done = trained(Store(tmp_path), candidate(steps=1000, time_limit="2s"))
    assert done.stopped == "time_limit"
    assert 0 < done.steps < 20


def test_divergence_stops_the_run_and_names_the_loss() -> None:
    broken = loop(steps=5)
    with torch.no_grad():
        next(broken.family.parameters()).fill_(math.nan)
    with pytest.raises(AtelierError, match=r"training diverged: main/bound is nan at step 1 of 5"):
        broken.run(lambda start: iter([blobs(8)] * 5))


def test_weights_that_are_no_numbers_are_never_kept(tmp_path: Path) -> None:
    """A time limit may stop a run between two readings of its losses."""
    ours = loop(steps=1000, time_limit="1s")
    ours.seconds = 2.0  # over the limit: it stops at once, with nothing read
    with torch.no_grad():
        next(ours.family.parameters()).fill_(math.nan)
    with pytest.raises(AtelierError, match=r"training diverged: .* no finite number everywhere"):
        ours.run(lambda start: iter([blobs(8)] * 5))


def test_a_checkpoint_whose_bytes_have_changed_is_a_fresh_start(tmp_path: Path) -> None:
    store, steps = Store(tmp_path), list[int]()
    whole = trained(Store(tmp_path / "whole"), candidate(steps=20))
    with pytest.raises(training.Stopped):
        trained(store, candidate(steps=20), alive=steps.append, stop=lambda: steps[-1] == 10)
    tensors = tmp_path / "checkpoints" / "job" / "step-10.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-4096:] = bytes(4096)
    tensors.write_bytes(content)
    steps.clear()
    assert trained(store, candidate(steps=20), alive=steps.append).weights == whole.weights
    assert steps[0] == 1


def test_loops_of_different_precision_run_one_after_the_other() -> None:
    for precision in ("fp32", "bf16", "fp32"):
        ours = loop(steps=2, precision=precision)
        ours.run(lambda start: iter([blobs(8)] * 3))
        assert ours.accelerator.mixed_precision == ("bf16" if precision == "bf16" else "no")


def test_what_cannot_be_built_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    from components import recipe

    shards = prepared(Store(tmp_path), train=16, held_out=8, size=10)
    raw = {
        "model": "toy", "modality": "image", "data": {"source": "data/d"}, "rank_by": "kd",
        "candidates": {"good": {"family": "vae"}}, "gates": [{"metric": "fd", "at_most": 1}],
    }  # fmt: skip
    with pytest.raises(AtelierError, match=r"candidates.good: vae halves a picture twice.*not 10"):
        training.refuse_unfit(recipe.parse(raw, "test"), shards)


def test_phases_that_are_not_due_are_left_out() -> None:
    ours = loop(steps=4)
    from components.contract import Phase

    ours.phases = (Phase("main", optimizer="main", every=2),)
    parts = [ours.advance(Rows(blobs(8)).batch(torch.arange(8))) for _ in range(4)]
    assert [bool(part) for part in parts] == [True, False, True, False]


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"warmup": 3}, [0.25, 0.5, 0.75, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.853553, 0.5, 0.146447, 0]),
        ({"schedule": "cosine", "warmup": 1}, [0.5, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_learning_rates_follow_the_schedule(settings: dict[str, Any], shares: list[float]) -> None:
    train = Train(steps=4, **settings)
    assert [training.share_of_rate(train, step) for step in range(5)] == pytest.approx(shares, abs=1e-6)


def test_a_schedule_is_resumed_where_it_was(tmp_path: Path) -> None:
    def scheduled(upto: int, **options: Any) -> training.Loop:
        torch.manual_seed(0)
        family = vae.Model(vae.Config(**SMALL), ImageSpec(channels=1, size=8))
        settings = Train(steps=6, batch_size=8, schedule="cosine", checkpoint_every=1)
        made = training.Loop(family, settings, **options)
        made.signs = training.Signs(stop=lambda: made.step == upto < 6)
        with contextlib.suppress(training.Stopped):
            made.run(lambda start: (blobs(8) for _ in count()))
        return made

    undisturbed = scheduled(6)
    scheduled(3, job="job", checkpoints=tmp_path)
    resumed = scheduled(6, job="job", checkpoints=tmp_path)
    rates = [made.optimizers["main"].param_groups[0]["lr"] for made in (undisturbed, resumed)]
    assert rates == pytest.approx([vae.Config().lr * 0.5 * (1 + math.cos(math.pi * 5 / 6))] * 2)
    weights = zip(resumed.family.parameters(), undisturbed.family.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_gradients_are_clipped_where_the_recipe_says_so() -> None:
    norms = []
    for clip_norm in (None, 0.5):
        run = loop(clip_norm=clip_norm)
        run.advance(blobs(8))
        gradients = [parameter.grad for parameter in run.family.parameters() if parameter.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
    assert norms[0] > 1 and norms[1] == pytest.approx(0.5, rel=1e-3)


def test_what_is_kept_of_a_weight_lies_in_memory_as_the_weight_does(tmp_path: Path) -> None:
    """A fused optimizer goes through both in that order: another one would mix up the places of a kernel."""
    run = loop(steps=3, checkpoint_every=3)
    run.checkpoints = tmp_path
    run.run(lambda start: (blobs(8) for _ in count()))
    again = training.Loop(run.family, run.settings, checkpoints=tmp_path)
    kernels = [weight for weight in run.family.parameters() if weight.ndim == 4]
    assert any(not weight.is_contiguous() for weight in kernels)
    for weight in kernels:
        kept = again.optimizers["main"].state[weight]
        assert kept["exp_avg"].stride() == kept["exp_avg_sq"].stride() == weight.stride()


@pytest.mark.slow
def test_compiled_networks_learn_the_same_and_their_checkpoint_is_anyones(tmp_path: Path) -> None:
    losses = {}
    for compiled in ("on", "off"):
        run = loop(compile=compiled)
        assert (run.family.encoder._compiled_call_impl is not None) == (compiled == "on")  # type: ignore[union-attr]
        losses[compiled] = [float(run.advance(blobs(8))["main/bound"]) for _ in range(5)]
        checkpoint.save(tmp_path / compiled, "job", run.family, run.optimizers, checkpoint.Progressed(5, 1.0, {}))
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
    for compiled in ("on", "off"):
        other = loop(compile="off")
        assert checkpoint.resume(tmp_path / compiled, "job", other.family, other.optimizers).step == 5


def test_only_networks_that_are_differentiated_once_are_compiled() -> None:
    for r1_weight, compiled in ((1.0, {"generator"}), (0.0, {"generator", "discriminator"})):
        family = stylegan2.Model(stylegan2.Config(width=4, r1_weight=r1_weight), ImageSpec(channels=1, size=8))
        training.Loop(family, Train(compile="on"))
        named = family.named_children()
        assert {name for name, network in named if network._compiled_call_impl is not None} == compiled
