import math

import pytest
import torch

from components import fidelity


def normal(count: int, features: int = 8, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return shift + scale * torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    one, other = normal(200_000, 3), normal(200_000, 3, seed=1, shift=1.0, scale=2.0)
    assert fidelity.frechet_distance(one, other) == pytest.approx(3 * 1**2 + 3 * (2 - 1) ** 2, rel=0.02)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    rows = normal(500)
    assert fidelity.frechet_distance(rows, rows) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_sees_correlation_that_the_margins_hide() -> None:
    rows = normal(20_000, 2)
    mixed = torch.stack([rows[:, 0], rows[:, 0]], dim=1)
    assert fidelity.frechet_distance(mixed, rows) > 0.5


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    same = [fidelity.kernel_distance(normal(200, seed=i), normal(200, seed=100 + i)) for i in range(40)]
    assert abs(sum(same) / 40) < 2 * torch.tensor(same).std().item() / math.sqrt(40)
    assert min(same) < 0
    assert fidelity.kernel_distance(normal(200), normal(200, seed=1, shift=0.5)) > max(same)


def test_neighbourhoods_of_equal_sets_are_high_and_of_far_ones_zero() -> None:
    near = fidelity.neighbourhoods(normal(400), normal(400, seed=1))
    far = fidelity.neighbourhoods(normal(400), normal(400, seed=1, shift=50))
    assert min(near["precision"], near["recall"], near["coverage"]) > 0.8
    assert near["density"] == pytest.approx(1, abs=0.2)
    assert set(far.values()) == {0.0}


def test_a_collapsed_set_keeps_precision_and_loses_coverage() -> None:
    real = normal(400)
    collapsed = real[:1] + 1e-3 * normal(400, seed=2)
    found = fidelity.neighbourhoods(collapsed, real)
    assert found["precision"] > 0.9
    assert found["coverage"] < 0.2
    assert found["recall"] < 0.2


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_planted_copies_are_counted_and_fresh_rows_are_not(share: float) -> None:
    training, fresh = normal(3000, 64), normal(1000, 64, seed=1)
    planted = int(share * 1000)
    generated = torch.cat([fresh[planted:], training[:planted] + 0.01 * normal(planted, 64, seed=2)])
    assert fidelity.copied(fresh, training).float().mean() == 0
    assert fidelity.copied(generated, training).float().mean().item() == pytest.approx(share)


def test_blurred_rows_are_near_many_rows_but_no_copies() -> None:
    training = normal(3000, 64)
    blurred = training[:500].reshape(-1, 5, 64).mean(dim=1)
    assert fidelity.copied(blurred, training).float().mean() == 0


def test_entropy_share() -> None:
    assert fidelity.entropy_share(torch.arange(100) % 10, 10) == pytest.approx(1)
    assert fidelity.entropy_share(torch.zeros(100, dtype=torch.long), 10) == 0
    assert fidelity.entropy_share(torch.arange(100) % 2, 4) == pytest.approx(0.5)


def test_features_that_are_no_numbers_have_no_distance() -> None:
    broken = torch.zeros(8, 3)
    broken[2, 1] = float("nan")
    assert math.isnan(fidelity.frechet_distance(broken, torch.randn(8, 3)))


def test_psnr_of_a_constant_error_is_known() -> None:
    one = torch.zeros(2, 1, 12, 12)
    assert fidelity.psnr(one, one + 0.2).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)  # a tenth of the range of 2


def test_ssim_is_one_for_the_same_picture_and_its_luminance_term_for_flat_ones() -> None:
    picture = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert fidelity.ssim(picture, picture).tolist() == pytest.approx([1, 1], abs=1e-5)
    black, grey = torch.full((1, 1, 16, 16), -1.0), torch.zeros(1, 1, 16, 16)
    assert fidelity.ssim(black, grey).item() == pytest.approx(1e-4 / (0.25 + 1e-4), rel=1e-3)


def test_ssim_of_one_window_is_that_of_its_weighted_moments() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(11, 11, generator=generator) for _ in range(2))
    weight = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)]
    total = sum(map(sum, weight))

    def moment(values: torch.Tensor) -> float:
        return sum(weight[i][j] * values[i, j].item() for i in range(11) for j in range(11)) / total

    mean_x, mean_y = moment(x), moment(y)
    variance_x, variance_y = moment((x - mean_x) ** 2), moment((y - mean_y) ** 2)
    covariance = moment((x - mean_x) * (y - mean_y))
    expected = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4)
    found = fidelity.ssim(2 * x[None, None] - 1, 2 * y[None, None] - 1).item()
    assert found == pytest.approx(expected, rel=1e-3)
