from collections.abc import Sequence
from typing import Any

import pytest
import torch

from components import families
from components.contract import Batch
from components.controls import PublicControl
from components.errors import AtelierError
from components.loops import tiered
from components.modalities.audio.batch import AudioSpec, Waves
from components.waveforms import SILENCE, encoded
from tests.components.families.family_contract import FamilyContract
from tests.components.families.sound_rows import LENGTH, RATE, Loudness, tones


class TestSampleRNN(FamilyContract):
    family = "samplernn"
    config = {"width": 8, "near": 2, "frames": 4}
    spec = AudioSpec(rate=RATE, length=LENGTH)
    falling = "main/loss"
    alarm = Loudness()
    steps = 80
    public = ("temperature", PublicControl(default=1.0, at_most=2.0), 0.0)

    def real(self, count: int) -> Waves:
        return tones(count)

    def draw(self, family: Any, seeds: Sequence[int], rows: Sequence[int] | None = None, **controls: Any) -> Batch:
        return super().draw(family, seeds, rows, **{"seconds": 1.0, **controls})

    def test_no_sample_knows_what_comes_after_it(self) -> None:
        network = self.build().network
        classes = torch.randint(0, 256, (1, 8 + 32), generator=torch.Generator().manual_seed(0))
        states = network.first_states(1)
        for changed in range(8, 40):
            other = classes.clone()
            other[0, changed] = (other[0, changed] + 100) % 256
            moved = (network(classes, states)[0] - network(other, states)[0]).abs().sum(dim=2)[0].nonzero()[:, 0]
            assert changed == 39 or moved.min() == changed - 8 + 1  # the one after it is the first that knows

    def test_a_row_that_goes_on_is_foretold_from_the_one_before(self) -> None:
        """Two windows, one after the other, are as improbable as they are in one."""
        family = self.build().eval()
        samples = torch.cat([tones(1).samples, tones(2).samples[1:]], dim=1)
        whole = Waves(samples, torch.tensor([2 * LENGTH]), places=torch.tensor([0]))
        first = Waves(samples[:, :LENGTH], torch.tensor([LENGTH]), places=torch.tensor([0]))
        second = Waves(samples[:, LENGTH:], torch.tensor([LENGTH]), places=torch.tensor([LENGTH]))
        nats, memory = family.nats(first)
        more, _ = family.nats(second, memory)
        torch.testing.assert_close(nats + more, family.nats(whole)[0])
        apart, _ = family.nats(second)
        assert not torch.allclose(more, apart)

    def test_training_carries_the_state_and_a_checkpoint_holds_it(self) -> None:
        family, generator = self.build(), torch.Generator()
        first, second = tones(2), tones(2)
        second = Waves(second.samples, second.lengths, places=first.places + LENGTH)
        family.loss("main", first, step=0, generator=generator)
        other = self.build()
        other.load_state_dict(family.state_dict())
        on, also = (one.loss("main", second, step=1, generator=generator).total for one in (family, other))
        afresh = self.build()
        afresh.load_state_dict({**family.state_dict(), "carried._extra_state": afresh.carried.get_extra_state()})
        assert on == also != afresh.loss("main", second, step=1, generator=generator).total

    @pytest.mark.parametrize("write", ["compiled", "by numpy"])
    def test_the_loop_foretells_as_the_network_does(self, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
        """Each sample that it takes at temperature 0 is the likeliest, given those before it."""
        if write == "by numpy":
            monkeypatch.setattr(tiered, "_write", tiered._by_numpy)
        family = self.build().eval()
        with torch.no_grad():
            for weights in family.network.parameters():
                weights.mul_(2).add_(0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
        (drawn,) = family.sample([1], controls=[self.control(seconds=1.0, temperature=0.0)]).samples
        classes = torch.cat([torch.full((8,), SILENCE), encoded(drawn)])[None]
        with torch.inference_mode():
            logits, _ = family.network(classes, family.network.first_states(1))
        lost = logits[0].amax(dim=1) - logits[0].gather(1, classes[0, 8:, None])[:, 0]
        assert len(classes.unique()) > 3 and lost.max() < 1e-2

    def test_windows_that_are_no_whole_number_of_frames_are_refused_with_one_that_is(self) -> None:
        module = families.get("samplernn")
        with pytest.raises(AtelierError, match=r"Set `prepare.seconds` to 0\.512"):
            module.Model(module.Config(), AudioSpec(rate=8000, length=4090))
