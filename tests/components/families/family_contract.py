"""The checks that every family passes: subclass `FamilyContract` once per family, with a small config."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from components import alarms, bundle, families, loading, sampling
from components.contract import AVERAGED, Batch, Spec
from components.controls import PublicControl
from components.recipe import Train
from components.store import digest_of
from components.training import Loop


class Levels:
    """An encoder of pictures whose features are the pixels; bright rows are of class 1."""

    def features(self, batch: Any) -> torch.Tensor:
        return batch.pixels.flatten(1)

    def labels(self, features_BD: torch.Tensor) -> torch.Tensor:
        return (features_BD.mean(dim=1) > 0).long()


class FamilyContract:
    """What training, evaluation and serving rely on, whichever family it is."""

    family: ClassVar[str]
    config: ClassVar[dict[str, Any]]
    spec: ClassVar[Spec]
    falling: ClassVar[str]  # a loss, "phase/part", that a few dozen steps on one batch bring down
    steps: ClassVar[int] = 40
    alarm: ClassVar[Any] = Levels()  # an encoder of two classes for the rows
    public: ClassVar[tuple[str, PublicControl, Any]] = ("truncation", PublicControl(default=1.0, at_most=1.5), 0.2)

    def real(self, count: int) -> Batch:
        """`count` rows of simple but not constant data."""
        raise NotImplementedError

    def given(self, count: int) -> Batch | None:
        """`count` different rows to make samples from, for a family that edits."""
        return None

    def draw(self, family: Any, seeds: Sequence[int], rows: Sequence[int] | None = None, **controls: Any) -> Batch:
        """A sample of each seed; where the family edits, from that given row, the first where none is named."""
        given = self.given(64)
        conditions = None if given is None else given.rows(torch.tensor(rows or [0] * len(seeds)))
        drawn: Batch = family.sample(seeds, controls=[self.control(**controls)] * len(seeds), conditions=conditions)
        return drawn

    def build(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        module = families.get(self.family)
        return module.Model(module.Config.model_validate(self.config), self.spec)

    def control(self, **values: Any) -> Any:
        return families.get(self.family).Controls(**values)

    def run(self, family: Any, steps: int, **options: Any) -> Loop:
        rows = Rows(self.real(32))
        loop = Loop(family, Train(steps=steps, batch_size=8, checkpoint_every=5), **options)
        loop.run(lambda start: loading.batches(rows, size=8, seed=3, start=start))
        return loop

    def test_a_seed_gives_the_same_bytes_alone_and_in_any_company(self) -> None:
        family = self.build().eval()
        company = list(range(100, 100 + family.rows + 3))
        for place in (0, 1, family.rows - 1, family.rows + 1):
            seeds = [*company[:place], 7, *company[place:]]
            together = self.draw(family, seeds, [seed % 64 for seed in seeds])
            alone = self.draw(family, [7], [7])
            assert _equal(together.rows(slice(place, place + 1)), alone)

    def test_another_goes_on_from_what_was_saved(self, tmp_path: Path) -> None:
        first, other = self.build(0), self.build(1)
        self.run(first, 2)
        first.eval().save(tmp_path)
        assert not _equal(self.draw(first, [1, 2]), self.draw(other.eval(), [1, 2]))
        other.begin(load_file(tmp_path / "model.safetensors"))
        served = type(first).restore(first.config, first.spec, tmp_path / "model.safetensors")
        assert _equal(self.draw(served, [1, 2]), self.draw(other.eval(), [1, 2]))
        trained = dict(other.named_children())
        for twin in AVERAGED:
            if "average" in trained and twin in trained:
                ours, theirs = trained[twin].state_dict(), trained["average"].state_dict()
                assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    def test_weights_of_another_network_are_no_beginning(self, tmp_path: Path) -> None:
        family = self.build()
        family.save(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        name = sorted(weights)[0]
        with pytest.raises(ValueError, match="1 weights are others"):
            self.build().begin({**weights, name: torch.zeros(3, 1, 4, 1, 5)})

    def test_different_seeds_give_different_samples(self) -> None:
        samples = self.draw(self.build().eval(), [1, 2], [1, 2])
        assert not _equal(samples.rows(slice(0, 1)), samples.rows(slice(1, 2)))

    def test_sampling_leaves_the_global_generator_alone(self) -> None:
        family = self.build().eval()
        before = torch.get_rng_state()
        self.draw(family, [1])
        assert torch.equal(before, torch.get_rng_state())

    def test_a_saved_model_samples_the_same_through_the_door_of_serving(self, tmp_path: Path) -> None:
        family = self.build().eval()
        family.save(tmp_path)
        (tmp_path / "endpoint.json").write_text(bundle.EndpointCard(model="m").model_dump_json())
        endpoint = sampling.load(tmp_path, digest=digest_of(tmp_path))
        assert _equal(endpoint.sample([5, 6], given=self.given(2)), self.draw(family, [5, 6], [0, 1]))
        assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json", "endpoint.json"}

    def test_public_controls_reach_the_sampler(self, tmp_path: Path) -> None:
        family = self.build().eval()
        family.save(tmp_path)
        name, control, other = self.public
        card = bundle.EndpointCard(model="m", controls={name: control})
        (tmp_path / "endpoint.json").write_text(card.model_dump_json())
        endpoint = sampling.load(tmp_path)
        given = self.given(1)
        assert not _equal(endpoint.sample([5], [{name: other}], given), endpoint.sample([5], given=given))

    def test_each_phase_moves_its_own_parameters_only(self) -> None:
        for phase in self.build().phases():
            family = self.build().train()
            optimizers = family.optimizers()
            own = {id(p) for group in optimizers[phase.optimizer].param_groups for p in group["params"]}
            before = {name: p.detach().clone() for name, p in family.named_parameters()}
            loop = Loop(family, Train(steps=1, batch_size=8))
            loop.optimizers = optimizers
            loop._update(phase, self.real(8))
            for name, parameter in family.named_parameters():
                if id(parameter) not in own:
                    assert torch.equal(before[name], parameter), f"{phase.name} moved {name}"
            moved = [n for n, p in family.named_parameters() if id(p) in own and not torch.equal(before[n], p)]
            assert moved, f"{phase.name} moved nothing"

    def test_every_parameter_is_trained_or_an_average(self) -> None:
        family = self.build()
        trained = {id(p) for o in family.optimizers().values() for group in o.param_groups for p in group["params"]}
        idle = [name for name, p in family.named_parameters() if id(p) not in trained and p.requires_grad]
        assert not idle

    def test_the_loss_falls(self) -> None:
        curve = [value for _, _, value in self.run(self.build(), self.steps).curves[self.falling]]
        assert sum(curve[-5:]) < 0.9 * sum(curve[:5])

    def test_training_is_a_function_of_its_seed(self) -> None:
        one, two = self.run(self.build(), 6).family, self.run(self.build(), 6).family
        other = self.run(self.build(seed=1), 6).family
        assert _same_state(one, two)
        assert not _same_state(one, other)

    def test_resume_is_exact(self, tmp_path: Path) -> None:
        undisturbed = self.run(self.build(), 12)
        cut_off = self.run(self.build(), 5, job="job", checkpoints=tmp_path)
        assert cut_off.step == 5
        resumed = self.run(self.build(seed=9), 12, job="job", checkpoints=tmp_path)
        assert _same_state(undisturbed.family, resumed.family)
        assert [point[0] for point in resumed.curves[self.falling]] == list(range(1, 13))

    def test_a_healthy_run_trips_no_alarm(self) -> None:
        """The losses stay far from the bound, and a look changes nothing of what is trained."""
        loop = self.run(self.build(), 6)
        assert loop.divergence.found(patience=1) is None
        variety = alarms.Variety(self.alarm, 2, self.alarm.features(self.real(8)), self.control(), self.given(8))
        before = copy.deepcopy(loop.family.state_dict())
        measured = variety.look(loop.family)
        assert 0 <= measured["recall"] <= 1 and loop.family.training
        assert all(torch.equal(before[name], tensor) for name, tensor in loop.family.state_dict().items())

    def test_two_steps_in_reduced_precision_have_finite_losses(self) -> None:
        loop = Loop(self.build(), Train(steps=2, batch_size=8, precision="bf16"))
        loop.run(lambda start: iter([self.real(8), self.real(8)]))
        assert loop.step == 2 and loop.accelerator.mixed_precision == "bf16"
        assert {name.split("/")[0] for name in loop.curves} == {phase.name for phase in loop.phases}
        assert all(math.isfinite(value) for curve in loop.curves.values() for _, _, value in curve)

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(ValidationError):
            families.get(self.family).Config.model_validate({"no_such_setting": 1})


class Rows:
    """A batch in memory as a split."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return len(self._batch)

    def batch(self, index: torch.Tensor) -> Batch:
        return copy.deepcopy(self._batch.rows(index))


def _equal(one: Batch, two: Batch) -> bool:
    kept: list[torch.Tensor] = []
    one.map(lambda tensor: kept.append(tensor) or tensor)
    two.map(lambda tensor: kept.append(tensor) or tensor)
    half = len(kept) // 2
    return all(torch.equal(mine, other) for mine, other in zip(kept[:half], kept[half:], strict=True))


def _same_state(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(
        torch.equal(mine, other)
        for mine, other in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
