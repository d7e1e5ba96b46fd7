import torch

from components import loading
from components.modalities.text.batch import Tokens
from components.recipe import Train
from components.training import Loop
from tests.components.families.family_contract import Rows
from tests.components.families.text_rows import CONTEXT, TextFamilyContract


class TestLstm(TextFamilyContract):
    family = "lstm"
    config = {"layers": 2, "width": 12}

    def test_a_row_that_goes_on_is_read_with_the_state_of_the_row_before(self) -> None:
        """Two windows, one after the other, are as improbable as they are in one."""
        family = self.build().eval()
        rows = self.real(2).tokens
        long = Tokens(torch.cat([rows[:1], rows[1:, 1:]], dim=1))
        first, memory = family.nats(Tokens(rows[:1]))
        second, _ = family.nats(Tokens(rows[1:]), memory)
        whole, _ = family.nats(long)
        torch.testing.assert_close(first + second, whole)
        assert not torch.allclose(family.nats(Tokens(rows[1:]))[0], second)

    def test_state_is_carried_to_the_rows_that_go_on_and_to_no_others(self) -> None:
        family = self.build().train()
        rows = self.real(4)
        family.loss("main", rows.rows(torch.tensor([0, 2])), step=0, generator=torch.Generator())
        state = family.carried.state(rows.rows(torch.tensor([1, 1])))
        assert state[:, :, 0].any() and not state[:, :, 1].any()
        assert family.carried.state(rows) is None  # other rows, in another number

    def test_carried_state_is_part_of_a_checkpoint_and_not_of_what_is_served(self, tmp_path) -> None:
        rows = Rows(self.real(32))

        def run(steps: int, **options) -> Loop:
            loop = Loop(self.build(), Train(steps=steps, batch_size=8, checkpoint_every=3), **options)
            loop.run(lambda start: loading.reading_on(rows, size=8, start=start))
            return loop

        run(3, job="j", checkpoints=tmp_path / "kept")
        resumed, undisturbed = run(7, job="j", checkpoints=tmp_path / "kept"), run(7)
        assert torch.equal(resumed.family.carried.state_2LBW, undisturbed.family.carried.state_2LBW)
        assert resumed.family.carried.next_B.tolist() == [(4 * b + 3) * CONTEXT for b in range(8)]
        for one, other in zip(resumed.family.parameters(), undisturbed.family.parameters(), strict=True):
            assert torch.equal(one, other)
        resumed.family.save(tmp_path)
        assert b"carried" not in (tmp_path / "model.safetensors").read_bytes()[:4096]
