import math
from itertools import permutations

import pytest
import torch

from components.errors import AtelierError
from components.families import flow_matching
from components.families.flow_matching import assigned, drawn, paired, plan, solve
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

LABELLED = ImageSpec(channels=1, size=8, classes=("even", "odd"))


class TestFlowMatching(FamilyContract):
    family = "flow_matching"
    config = {"width": 8, "lr": 0.01}
    spec = ImageSpec(channels=1, size=8)
    falling = "main/loss"

    def real(self, count: int) -> Images:
        return blobs(count)


class TestConditional(TestFlowMatching):
    config = {"width": 8, "lr": 0.01, "conditional": True}
    spec = LABELLED


def model(**config: object) -> flow_matching.Model:
    torch.manual_seed(0)
    spec = LABELLED if config.get("conditional") else TestFlowMatching.spec
    return flow_matching.Model(flow_matching.Config(width=8, **config), spec)


def woken(family: flow_matching.Model) -> flow_matching.Model:
    """The model with every zero weight made random, as after training."""
    for parameter in family.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return family.eval()


def test_the_untrained_velocity_is_that_of_gaussian_data() -> None:
    """E[x1 - x0 | x_t = x] by the regression of one Gaussian on another, from a million draws."""
    family, generator = model(data_deviation=0.5), torch.Generator().manual_seed(0)
    noise, data = (torch.randn(10**6, generator=generator) for _ in range(2))
    data = 0.5 * data
    for time in (0.1, 0.5, 0.9):
        between = torch.lerp(noise, data, time)
        slope = (between * (data - noise)).mean() / between.square().mean()
        pixels = torch.ones(1, 1, 8, 8)
        velocity = family._velocity(family.network, pixels, torch.tensor([time]), None)
        torch.testing.assert_close(velocity, slope * pixels, atol=0.01, rtol=0)


def test_an_untrained_model_draws_gaussian_pictures_of_the_data_s_deviation() -> None:
    family = model(data_deviation=0.2).eval()
    controls = flow_matching.Controls(steps=100, truncation=0.5)
    drawn = family.sample([3], controls=[controls]).pixels
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn[0], 0.2 * 0.5 * noise, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_samplers_follow_a_known_path_at_their_order(sampler: str, order: int) -> None:
    """dx/dt = 2 t x ends in e x0; halving the step divides the error by 2 to the order."""
    start = torch.ones(1, dtype=torch.float64)

    def error(steps: int) -> float:
        return (solve(lambda x, t: 2 * t * x, start, steps=steps, sampler=sampler) - math.e).abs().item()

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.1)
    assert error(128) < 0.04


def test_the_loss_at_a_point_is_the_squared_distance_to_data_less_noise() -> None:
    family, batch = model(pairing="independent"), blobs(4)
    loss = family.loss("main", batch, step=0, generator=torch.Generator().manual_seed(5)).total
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(batch.pixels.shape, generator=generator)
    expected = []
    for data, start, time in zip(batch.pixels, noise, torch.rand(4, generator=generator), strict=True):
        between = (1 - time) * start + time * data
        slope = (0.49 * time - (1 - time)) / ((1 - time) ** 2 + 0.49 * time**2)
        expected.append((slope * between - (data - start)).square().mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_noise_is_paired_as_cheaply_as_any_permutation_can() -> None:
    noise, data = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(18.0).reshape(6, 3) / 9
    chosen = paired(noise, data, None, torch.Generator())
    assert sorted(chosen.tolist()) == list(range(6))
    costs = [(noise[list(order)] - data).square().sum() for order in permutations(range(6))]
    torch.testing.assert_close((noise[chosen] - data).square().sum(), min(costs))


def test_on_a_line_pairing_keeps_the_order_and_labels_keep_to_their_own() -> None:
    noise, data = torch.tensor([[3.0], [1.0], [2.0], [0.0]]), torch.tensor([[10.0], [11.0], [12.0], [13.0]])
    assert noise[paired(noise, data, None, torch.Generator())].flatten().tolist() == [0, 1, 2, 3]
    labels = torch.tensor([0, 0, 1, 1])
    assert noise[paired(noise, data, labels, torch.Generator())].flatten().tolist() == [1, 3, 0, 2]


def test_a_plan_of_transport_is_even_and_saves_nearly_what_the_exact_pairs_do() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, data = (torch.randn(64, 8, generator=generator) for _ in range(2))
    cost, shares = torch.cdist(data, noise).square(), plan(torch.cdist(data, noise).square()).exp()
    for dim in (0, 1):
        torch.testing.assert_close(shares.sum(dim=dim), torch.ones(64), atol=0.05, rtol=0)
    independent, exact = cost.mean(), cost[torch.arange(64), assigned(cost)].mean()
    saved = (independent - (shares * cost).sum() / 64) / (independent - exact)
    assert 0.9 < saved.item() < 1.01


def test_a_plan_keeps_within_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 3
    same = labels[:, None] == labels[None, :]
    cost = torch.where(same, torch.rand(32, 32, generator=generator), math.inf)
    shares = plan(cost)
    assert (shares.exp()[~same] == 0).all()
    assert (labels[drawn(shares, generator)] == labels).all()


def test_columns_are_drawn_by_their_shares() -> None:
    shares = torch.tensor([0.1, 0.6, 0.3, 0.0])
    chosen = drawn(shares.log().expand(20_000, 4), torch.Generator().manual_seed(0))
    torch.testing.assert_close(chosen.bincount(minlength=4) / 20_000, shares, atol=0.01, rtol=0)


def test_optimal_pairing_shortens_the_way_and_keeps_the_loss_s_draws() -> None:
    """With the same noise and times, an untrained model's loss is lower where the pairs lie nearer."""
    losses = {
        pairing: model(pairing=pairing)
        .loss("main", blobs(32), step=0, generator=torch.Generator().manual_seed(0))
        .total
        for pairing in ("optimal", "independent")
    }
    assert losses["optimal"] < losses["independent"]


def test_logit_normal_times_crowd_about_the_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    times = model(time="logit_normal")._times(20_000, generator)
    within = ((times > 0.25) & (times < 0.75)).float().mean().item()
    assert within == pytest.approx(math.erf(math.log(3) / math.sqrt(2)), abs=0.01)
    assert model()._times(20_000, generator).mean().item() == pytest.approx(0.5, abs=0.01)


def test_guidance_of_one_is_the_class_and_more_moves_on() -> None:
    family = woken(model(conditional=True))
    asked = [flow_matching.Controls(label="odd", guidance=guidance, steps=2) for guidance in (1.0, 1.0, 3.0)]
    both = family.sample([1, 1, 1], controls=asked)
    assert torch.equal(both.pixels[0], both.pixels[1])
    assert not torch.allclose(both.pixels[0], both.pixels[2])
    assert both.labels.tolist() == [1, 1, 1]
    alone = family.sample([1], controls=asked[:1]).pixels
    assert torch.equal(alone[0], both.pixels[0])


def test_samplers_and_steps_reach_the_picture() -> None:
    family = woken(model())
    drawn = [
        family.sample([1], controls=[flow_matching.Controls(sampler=sampler, steps=steps)]).pixels
        for sampler, steps in (("euler", 2), ("midpoint", 2), ("heun", 2), ("heun", 3))
    ]
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_the_average_spans_the_same_share_of_any_run() -> None:
    family = model()
    for step in range(200):
        torch.nn.init.constant_(family.network.stem[1].bias, step)
        family.after_step(step)
    gamma = family.config.average_gamma
    weights = torch.arange(1, 201.0) ** gamma  # arXiv:2312.02696, eq. 1
    expected = (weights * torch.arange(200)).sum() / weights.sum()
    assert family.average.stem[1].bias[0].item() == pytest.approx(expected.item(), rel=0.01)


def test_what_cannot_be_conditional_is_refused() -> None:
    with pytest.raises(AtelierError, match="have no classes"):
        flow_matching.Model(flow_matching.Config(conditional=True), TestFlowMatching.spec)
    for labels in (None, torch.tensor([0, -1])):
        with pytest.raises(AtelierError, match="has no label"):
            model(conditional=True).loss(
                "main", Images(blobs(2).pixels, labels), step=0, generator=torch.Generator().manual_seed(0)
            )


def test_controls_that_the_model_cannot_honour_are_refused() -> None:
    with pytest.raises(AtelierError, match="unknown label 'od'"):
        model(conditional=True).refuse(flow_matching.Controls(label="od"))
    with pytest.raises(AtelierError, match=r"label is 'odd', but .* knows no classes"):
        model().refuse(flow_matching.Controls(label="odd"))
    with pytest.raises(AtelierError, match=r"guidance is 2\.0, but .* knows no classes"):
        model().refuse(flow_matching.Controls(guidance=2))
    model().refuse(flow_matching.Controls())
    model(conditional=True).refuse(flow_matching.Controls(label="odd", guidance=2))


def test_a_size_it_cannot_make_is_refused() -> None:
    with pytest.raises(AtelierError, match="multiple of 4, not 30"):
        flow_matching.Model(flow_matching.Config(), ImageSpec(channels=1, size=30))
