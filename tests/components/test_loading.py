from itertools import islice, pairwise

import pytest
import torch

from components import loading
from components.errors import AtelierError
from components.modalities.image.batch import Images


class Numbers:
    """Rows that carry their own index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, index: torch.Tensor) -> Images:
        return Images(index.float().reshape(-1, 1, 1, 1))


def indices(start: int, count: int, seed: int = 0, rows: int = 10, size: int = 3) -> list[list[int]]:
    stream = loading.batches(Numbers(rows), size=size, seed=seed, start=start)
    return [batch.pixels.flatten().int().tolist() for batch in islice(stream, count)]


def test_an_epoch_sees_each_row_once_but_for_its_short_tail() -> None:
    seen = [row for batch in indices(0, 3) for row in batch]
    assert len(seen) == len(set(seen)) == 9


def test_epochs_and_seeds_differ_in_order() -> None:
    assert indices(0, 3) != indices(3, 3)
    assert indices(0, 3) != indices(0, 3, seed=1)


@pytest.mark.parametrize("start", [1, 3, 7])
def test_starting_later_is_the_rest_of_the_same_stream(start: int) -> None:
    assert indices(start, 4) == indices(0, start + 4)[start:]


def test_augmentation_depends_on_the_step_alone() -> None:
    def noise(batch: Images, generator: torch.Generator) -> Images:
        return Images(batch.pixels + torch.rand(1, generator=generator))

    def stream(start: int) -> list[torch.Tensor]:
        made = loading.batches(Numbers(10), size=3, seed=0, start=start, augment=noise)  # type: ignore[arg-type]
        return [batch.pixels for batch in islice(made, 5)]

    assert torch.equal(stream(0)[4], stream(4)[0])
    assert not torch.equal(stream(0)[0].frac(), stream(0)[1].frac())


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(AtelierError, match="only 10 rows"):
        next(loading.batches(Numbers(10), size=11, seed=0, start=0))


def test_consecutive_steps_read_every_part_of_a_side_on_and_on() -> None:
    steps = [loading.consecutive(14, step=step, size=3) for step in range(5)]
    assert [step.tolist() for step in steps[:2]] == [[0, 4, 8], [1, 5, 9]]
    assert all(torch.equal(after, before + 1) for before, after in pairwise(steps[:4]))
    assert sorted(torch.cat(steps[:4]).tolist()) == list(range(12))
    assert torch.equal(steps[4], steps[0])


def test_more_parts_than_windows_are_refused() -> None:
    with pytest.raises(AtelierError, match=r"train\.batch_size is 15, but there are only 14 windows"):
        loading.consecutive(14, step=0, size=15)
