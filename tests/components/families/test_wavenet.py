from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from components import families, waveforms
from components.contract import Batch
from components.controls import PublicControl
from components.errors import AtelierError
from components.loops import choice, convolved
from components.modalities.audio.batch import PAD, AudioSpec, Waves
from components.waveforms import SILENCE
from tests.components.families.family_contract import FamilyContract
from tests.components.families.sound_rows import LENGTH, RATE, Loudness, tones


def made(case: FamilyContract, **config: Any) -> Any:
    """The family of a case with more in its config."""
    torch.manual_seed(0)
    module = families.get(case.family)
    return module.Model(module.Config.model_validate(case.config | config), case.spec)


class TestWavenet(FamilyContract):
    family = "wavenet"
    config = {"stacks": 2, "layers": 3, "width": 4, "skipped": 6}
    spec = AudioSpec(rate=RATE, length=LENGTH)
    falling = "main/loss"
    alarm = Loudness()
    steps = 80
    public = ("temperature", PublicControl(default=1.0, at_most=2.0), 0.0)

    def real(self, count: int) -> Waves:
        return tones(count)

    def draw(self, family: Any, seeds: Sequence[int], rows: Sequence[int] | None = None, **controls: Any) -> Batch:
        return super().draw(family, seeds, rows, **{"seconds": 1.0, **controls})

    def test_silence_and_the_loudest_have_classes_of_their_own_and_come_back(self) -> None:
        samples = torch.tensor([-1.0, 0.0, 1.0, 0.5, -0.01])
        classes = waveforms.encoded(samples)
        assert classes[:3].tolist() == [0, SILENCE, 255]
        torch.testing.assert_close(waveforms.decoded(classes), samples, atol=0.02, rtol=0.02)
        every = torch.arange(256)
        assert torch.equal(waveforms.encoded(waveforms.decoded(every)), every)

    def test_no_sample_knows_what_comes_after_it_and_each_sees_its_whole_reach(self) -> None:
        network = self.build().average
        classes = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(0))
        changed = classes.clone()
        changed[0, 20] = (changed[0, 20] + 100) % 256
        moved = (network(classes) - network(changed)).abs().sum(dim=1)[0].nonzero()[:, 0]
        assert network.reach == 2 * 7 + 1
        assert (moved.min(), moved.max()) == (20, 20 + network.reach - 1)

    def test_a_row_that_goes_on_is_foretold_from_the_one_before(self) -> None:
        """Two windows, one after the other, are as improbable as they are in one."""
        family = self.build().eval()
        rows = self.real(2)
        rows = Waves(rows.samples, torch.tensor([LENGTH, LENGTH]), places=torch.tensor([0, LENGTH]))
        long = Waves(rows.samples.reshape(1, -1), torch.tensor([2 * LENGTH]))
        first, memory = family.nats(rows.rows(slice(0, 1)))
        second, _ = family.nats(rows.rows(slice(1, 2)), memory)
        torch.testing.assert_close(first + second, family.nats(long)[0])
        elsewhere = Waves(rows.samples[1:], rows.lengths[1:], places=torch.tensor([999]))
        assert not torch.allclose(family.nats(elsewhere, memory)[0], second)

    def test_what_lies_behind_the_end_of_a_row_costs_nothing(self) -> None:
        family = self.build().eval()
        rows = self.real(4)
        noisy = rows.samples.clone()
        noisy[3, rows.lengths[3] :] = 0.9
        other = Waves(noisy, rows.lengths, places=rows.places)
        one, same = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        assert family.loss("main", rows, step=0, generator=one).total.item() == pytest.approx(
            family.loss("main", other, step=0, generator=same).total.item()
        )
        assert torch.equal(family.nats(rows)[0], family.nats(other)[0])

    def test_the_compiled_loop_foretells_as_the_network_does(self) -> None:
        """Each sample that it takes at temperature 0 is the likeliest, given those before it."""
        family = self.sharp()
        (drawn,) = family.sample([1], controls=[self.control(seconds=1.0, temperature=0.0)]).samples
        self.assert_likeliest(family, waveforms.encoded(drawn))

    def test_numpy_does_the_same_where_there_is_no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(convolved, "_write", convolved._by_numpy)
        family = self.sharp()
        (drawn,) = family.sample([1], controls=[self.control(seconds=1.0, temperature=0.0)]).samples
        self.assert_likeliest(family, waveforms.encoded(drawn))
        varied = family.sample([1, 2], controls=[self.control()] * 2).samples
        assert not torch.equal(varied[0], varied[1])

    def sharp(self) -> Any:
        """A model that minds what it hears: fresh ones foretell nearly the same whatever that is."""
        family = self.build().eval()
        with torch.no_grad():
            for weights in family.average.parameters():
                weights.mul_(2.5)
        return family

    def assert_likeliest(self, family: Any, classes: torch.Tensor) -> None:
        with torch.inference_mode():
            logits = family.average(torch.nn.functional.pad(classes[None, :-1], (1, 0), value=SILENCE))[0]
        lost = logits.amax(dim=0) - logits.gather(0, classes[None])[0]
        assert len(set(classes.tolist())) > 3 and lost.max() < 1e-2

    def test_classes_are_taken_by_their_shares(self) -> None:
        logits = np.log(np.array([0.5, 0.25, 0.125, 0.125])).astype(np.float32)
        shares = np.empty_like(logits)
        taken = [choice.chosen(logits, 1.0, uniform, shares) for uniform in (0.0, 0.49, 0.51, 0.74, 0.76, 0.99)]
        assert taken == [0, 0, 1, 1, 2, 3]
        assert [choice.chosen(logits, 0.1, uniform, shares) for uniform in (0.1, 0.9)] == [0, 0]

    @pytest.mark.parametrize("classes", [1, 16, 37, 256])
    def test_the_likeliest_class_is_the_first_of_the_highest(self, classes: int) -> None:
        logits, shares = np.random.default_rng(0).normal(size=classes).astype(np.float32), np.empty(classes, np.float32)
        logits[classes // 2 :: 7] = logits.max() + 1
        assert choice.chosen(logits, choice.GREEDY, 0.5, shares) == classes // 2 == logits.argmax()
        assert choice.chosen(logits, 1e-40, 1e-9, shares) == classes // 2

    def test_no_number_among_the_logits_still_is_a_class(self) -> None:
        logits = np.full(256, np.nan, np.float32)
        assert choice.chosen(logits, 1.0, 0.5, np.empty_like(logits)) in range(256)

    def test_shares_are_those_of_exponentials(self) -> None:
        logits = np.linspace(-20, 0, 2001).astype(np.float32)
        shares = np.empty_like(logits)
        choice.chosen(logits, 0.5, 0.5, shares)
        near = logits > -10  # exp(-20) by that temperature
        assert np.abs(shares[near] / np.exp(logits[near].astype(np.float64) / 0.5) - 1).max() < 2e-5
        assert (shares[~near] < 1e-8).all()

    def test_the_bend_is_a_hyperbolic_tangent(self) -> None:
        values = np.linspace(-20, 20, 4001).astype(np.float32)
        bent = values.copy()
        choice.bend(bent)
        assert np.abs(bent - np.tanh(values)).max() < 1e-4

    def test_sounds_are_as_long_as_each_is_asked_to_be(self) -> None:
        family = self.build().eval()
        drawn = family.sample([1, 2], controls=[self.control(seconds=0.5), self.control(seconds=1.0)])
        assert drawn.lengths.tolist() == [100, 200] and drawn.samples.shape == (2, 200)
        assert not drawn.samples[0, 100:].any() and drawn.samples[0, :100].any()

    def test_a_step_is_about_a_part_of_a_window_behind_all_that_it_is_made_from(self) -> None:
        """The loss over parts of one frame, at every place, is the loss of the whole window."""
        family = made(self, dropped=0.0, segment=2)
        noise = torch.rand(1, LENGTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
        rows = Waves(noise, torch.tensor([LENGTH]))
        whole = family.nats(rows)[0] / LENGTH  # the average is still what the network is
        generator = torch.Generator().manual_seed(0)
        parts = torch.stack([family.loss("main", rows, step=0, generator=generator).total.detach() for _ in range(600)])
        assert len(parts.unique()) == LENGTH // family.hop
        torch.testing.assert_close(parts.unique().mean(), whole[0], rtol=1e-3, atol=0)


TEXTS = (b"one", b"two", b"one two", b"")


class TestWavenetThatSpeaks(FamilyContract):
    family = "wavenet"
    config = {"stacks": 1, "layers": 3, "width": 4, "skipped": 6, "told": 8, "speaks": True, "conditional": True}
    spec = AudioSpec(rate=RATE, length=LENGTH, classes=("low", "high"), text=8, characters=" enotw")
    falling = "main/loss"
    alarm = Loudness()
    steps = 80
    public = ("temperature", PublicControl(default=1.0, at_most=2.0), 0.0)

    def real(self, count: int) -> Waves:
        rows = tones(count)
        text = torch.full((count, 8), PAD)
        for row in range(count):
            said = TEXTS[row % 4]
            text[row, : len(said)] = torch.tensor(list(said), dtype=torch.int64)
        return Waves(rows.samples, rows.lengths, torch.arange(count) % 2, text, rows.places)

    def draw(self, family: Any, seeds: Sequence[int], rows: Sequence[int] | None = None, **controls: Any) -> Batch:
        return super().draw(family, seeds, rows, **{"seconds": 1.0, **controls})

    def test_each_text_lasts_as_long_as_it_is_foretold_to_and_seconds_are_the_most(self) -> None:
        family = self.build().eval()
        short, long = self.control(text="one", seconds=9.0), self.control(text="one two", seconds=9.0)
        cut = self.control(text="one two", seconds=0.1)
        drawn = family.sample([1, 1, 1], controls=[short, long, cut])
        first, second, third = drawn.lengths.tolist()
        assert first < second and third == round(0.1 * RATE)
        assert first == pytest.approx(3 * 8 * family.hop, rel=0.2)

    def test_what_is_said_and_of_which_class_makes_another_sound(self) -> None:
        family = self.build().eval()
        with torch.no_grad():
            family.average.telling.weight.mul_(50)
            family.average.conditions.silent.normal_(generator=torch.Generator().manual_seed(0))
        given = [{"text": "one"}, {"text": "two"}, {"text": "one", "label": "low"}, {}]
        drawn = [family.sample([1], controls=[self.control(seconds=0.1, **one)]).samples for one in given]
        assert all(not torch.equal(drawn[0], other) for other in drawn[1:])

    def test_how_long_texts_are_is_learnt(self) -> None:
        family = made(self, dropped=0.0)
        rows = self.real(8).rows(torch.tensor([0, 1, 4, 5]))
        optimizer = torch.optim.Adam(family.network.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            optimizer.zero_grad()
            family.loss("main", rows, step=0, generator=generator).total.backward()
            optimizer.step()
        foretold = family.network.conditions.lengths(rows.text) * family.hop
        torch.testing.assert_close(foretold, rows.lengths.float(), rtol=0.1, atol=1.0)

    def test_characters_are_told_in_their_order_and_stretched_to_the_sound(self) -> None:
        conditions = self.build().network.conditions
        with torch.no_grad():
            conditions.bytes.weight.mul_(5)
        text = torch.tensor([list(b"ab") + [PAD] * 6])
        told = conditions(text, None, torch.tensor([40.0]), 60)[0]
        again = conditions(text, None, torch.tensor([20.0]), 60)[0]
        assert torch.allclose(told[0], told[8], atol=1e-2) and torch.allclose(told[45], told[59], atol=1e-2)
        assert not torch.allclose(told[8], told[32], atol=0.1)
        torch.testing.assert_close(told[4], again[2], atol=0.1, rtol=0.1)

    @pytest.mark.parametrize(
        ("controls", "told"),
        [
            ({"text": "zoo"}, r"never heard spoken: 'z' \(U\+007A\)"),
            ({"text": "one two one"}, "has 11 bytes"),
            ({"text": "\ud800"}, "cannot be read"),
            ({"text": "é"}, "never heard"),
            ({"label": "middle"}, "middle"),
        ],
    )
    def test_what_it_cannot_say_is_refused(self, controls: dict[str, Any], told: str) -> None:
        with pytest.raises(AtelierError, match=told):
            self.build().refuse(self.control(**controls))

    def test_what_it_heard_it_says_in_capitals_too(self) -> None:
        self.build().refuse(self.control(text="TWO one", label="high"))

    def test_data_without_transcripts_or_classes_are_refused_before_training(self) -> None:
        module, bare = families.get("wavenet"), AudioSpec(rate=RATE, length=LENGTH)
        with pytest.raises(AtelierError, match=r"prepare\.text"):
            module.Model(module.Config(speaks=True), bare)
        with pytest.raises(AtelierError, match="no classes"):
            module.Model(module.Config(conditional=True), bare)
        mute = module.Model(module.Config(width=4), bare)
        with pytest.raises(AtelierError, match="speaks no text"):
            mute.refuse(module.Controls(text="one"))
