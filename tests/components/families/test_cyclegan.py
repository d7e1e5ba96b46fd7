from pathlib import Path

import pytest
import torch

from components import bundle, training
from components.controls import PublicControl
from components.errors import AtelierError
from components.families import cyclegan
from components.modalities.image.batch import Images, ImageSpec, degrade
from components.recipe import Candidate
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

SPEC = ImageSpec(channels=1, size=8, degrade="invert")


def model(**config: object) -> cyclegan.Model:
    torch.manual_seed(0)
    return cyclegan.Model(cyclegan.Config.model_validate({"width": 2, "critic_width": 4, **config}), SPEC)


class TestCycleGan(FamilyContract):
    family = "cyclegan"
    config = {"width": 4, "blocks": 1, "critic_width": 4, "pool": 6, "lr": 0.002}
    spec = SPEC
    falling = "generators/cycle"
    public = ("direction", PublicControl(default="restore", choices=("restore", "degrade")), "degrade")

    def real(self, count: int) -> Images:
        return blobs(count)

    def given(self, count: int) -> Images:
        pixels = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Images(pixels[:count])

    def test_a_sample_follows_from_the_given_picture_and_not_from_its_seed(self) -> None:
        family = self.build().eval()
        one, other = self.draw(family, [1, 2], [3, 3]).pixels
        assert torch.equal(one, other)

    def test_its_bundle_says_that_it_edits(self, tmp_path: Path) -> None:
        self.build().save(tmp_path)
        (tmp_path / "endpoint.json").write_text(bundle.EndpointCard(model="m").model_dump_json())
        assert bundle.read(tmp_path)[0].edits

    def test_both_ways_in_one_call_are_those_of_calls_of_their_own(self) -> None:
        family = self.build().eval()
        ways = [self.control(direction=way) for way in ("restore", "degrade", "restore")]
        both = family.sample([1, 2, 3], controls=ways, conditions=self.given(3)).pixels
        for row, way in enumerate(ways):
            alone = family.sample([0], controls=[way], conditions=self.given(3).rows(slice(row, row + 1))).pixels
            assert torch.equal(alone[0], both[row])

    def test_it_refuses_to_sample_from_nothing(self) -> None:
        with pytest.raises(ValueError, match="2 samples are asked for and 0 rows given"):
            self.build().sample([1, 2], controls=[self.control()] * 2)

    def test_inverting_is_learnt_without_a_pair(self) -> None:
        family = self.run(self.build(), 60).family.eval()
        real = self.real(8)
        restored = self.draw_from(family, Images(degrade(real.pixels, "invert")))
        untrained = self.draw_from(self.build().eval(), Images(degrade(real.pixels, "invert")))
        assert (restored - real.pixels).abs().mean() < 0.5 * (untrained - real.pixels).abs().mean()

    def draw_from(self, family: cyclegan.Model, given: Images) -> torch.Tensor:
        return family.sample([0] * len(given), controls=[self.control()] * len(given), conditions=given).pixels


class Same(torch.nn.Module):
    """A generator that changes nothing, with a weight to train."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.one * pixels


class Score(torch.nn.Module):
    """A discriminator that gives every patch the same score."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels), 1, 2, 2), self.score)


def parts(phase: str, *, change: float = 1.0) -> tuple[float, dict[str, float]]:
    """The losses of generators that multiply by `change` and discriminators that say 0.25 of everything."""
    family = model(cycle=10, identity=0.5)
    for name in ("restore", "degrade"):
        family.generators[name] = Same()
        torch.nn.init.constant_(family.generators[name].one, change)
        family.discriminators[name] = Score(0.25)
    loss = family.loss(phase, blobs(6), step=0, generator=torch.Generator().manual_seed(0))
    return loss.total.item(), {name: value.item() for name, value in loss.parts.items()}


def test_the_losses_of_generators_that_change_nothing_are_those_of_equation_three() -> None:
    total, named = parts("generators")
    assert named == pytest.approx({"adversarial": 2 * 0.75**2, "cycle": 0, "identity": 0}, abs=1e-6)
    assert total == pytest.approx(2 * 0.75**2)


def test_cycle_and_identity_are_mean_absolute_changes_with_weights_ten_and_five() -> None:
    total, named = parts("generators", change=0.5)
    real, spoiled = blobs(6).pixels[:3].abs().mean(), blobs(6).pixels[3:].abs().mean()
    cycle, identity = 0.75 * (real + spoiled).item(), 0.5 * (real + spoiled).item()  # a quarter and a half are left
    assert named == pytest.approx({"adversarial": 1.125, "cycle": cycle, "identity": identity}, rel=1e-5)
    assert total == pytest.approx(1.125 + 10 * cycle + 5 * identity, rel=1e-5)


def test_the_discriminators_pay_half_of_the_squares_from_one_and_from_nought() -> None:
    _, named = parts("discriminators")
    each = (0.75**2 + 0.25**2) / 2
    assert named == pytest.approx({"restore": each, "degrade": each})


def test_no_picture_meets_its_own_degraded_self() -> None:
    seen: dict[str, torch.Tensor] = {}
    family = model()
    family._of_generators = lambda real, spoiled: seen.update(real=real, spoiled=spoiled)  # type: ignore[assignment]
    batch = Images(torch.arange(7.0)[:, None, None, None].expand(7, 1, 8, 8) / 10)
    family.loss("generators", batch, step=0, generator=torch.Generator())
    real, clean = seen["real"][:, 0, 0, 0], -seen["spoiled"][:, 0, 0, 0]
    assert len(real) == len(clean) == 3
    assert not set(real.tolist()) & set(clean.tolist())


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float)[:, None, None, None].expand(count, 1, 8, 8).clone()


def test_a_pool_fills_with_what_comes_and_then_swaps_about_half_of_it_for_earlier_ones() -> None:
    pool, generator = cyclegan.Pool(6, SPEC), torch.Generator().manual_seed(0)
    for first in (0, 3):
        assert torch.equal(pool(numbered(first, 3), generator), numbered(first, 3))
    assert pool.kept[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    swapped = 0
    for first in range(6, 1206, 3):
        before, new = set(pool.kept[:, 0, 0, 0].tolist()), {float(first + i) for i in range(3)}
        shown = set(pool(numbered(first, 3), generator)[:, 0, 0, 0].tolist())
        after = set(pool.kept[:, 0, 0, 0].tolist())
        assert len(shown) == 3 and shown <= before | new
        assert after == (before | new) - shown, "what is shown is not kept, and what is not shown is"
        swapped += len(shown & before)
    assert swapped / 1200 == pytest.approx(0.5, abs=0.05)


def test_more_samples_than_a_pool_holds_all_come_back() -> None:
    pool = cyclegan.Pool(2, SPEC)
    for first in (0, 5):
        assert len(pool(numbered(first, 5), torch.Generator().manual_seed(0))) == 5


def test_data_that_give_nothing_and_sizes_it_cannot_make_are_refused() -> None:
    with pytest.raises(AtelierError, match="'cyclegan' changes what it is given"):
        training.build(Candidate(family="cyclegan"), ImageSpec(channels=1, size=8))
    for size in (4, 30):
        with pytest.raises(AtelierError, match=f"not {size}"):
            cyclegan.Model(cyclegan.Config(), ImageSpec(channels=1, size=size, degrade="blur"))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 64)])
def test_usual_sizes_come_out_as_they_went_in(channels: int, size: int) -> None:
    spec = ImageSpec(channels=channels, size=size, degrade="blur")
    family = cyclegan.Model(cyclegan.Config(width=2), spec).eval()
    pixels = torch.zeros(1, channels, size, size)
    made = family.sample([0], controls=[cyclegan.Controls()], conditions=Images(pixels)).pixels
    assert made.shape == pixels.shape and made.abs().max() <= 1
