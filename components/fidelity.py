"""Distances between two sets of feature vectors: how faithful and how varied generated rows are.

N generated rows, M real rows, D features. All take float matrices [N, D] and [M, D] and return plain numbers; but for
`psnr` and `ssim`, which compare pictures [B, C, H, W] with those that they should be.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Placed:
    """Where each of N rows stands: `far` from real ones, and `alone` beside one of them, which is 0 for its copy."""

    far_N: Tensor
    alone_N: Tensor


def frechet_distance(generated_ND: Tensor, real_MD: Tensor) -> float:
    """Squared 2-Wasserstein distance of the two Gaussian fits, 0 when they agree (arXiv:1706.08500).

    Biased upwards by about 1/N: compare at equal N only. NaN where a feature is no finite number.
    """
    if not (torch.isfinite(generated_ND).all() and torch.isfinite(real_MD).all()):
        return math.nan  # eigenvalues of such a matrix may end the process
    generated_ND, real_MD = generated_ND.double(), real_MD.double()
    shift = (generated_ND.mean(0) - real_MD.mean(0)).square().sum()
    ours_DD, theirs_DD = torch.cov(generated_ND.T), torch.cov(real_MD.T)
    # tr (AB)^(1/2) through the eigenvalues of AB, which are real and not negative for covariances A and B
    cross = torch.linalg.eigvals(ours_DD @ theirs_DD).real.clamp(min=0).sqrt().sum()
    return float(shift + ours_DD.trace() + theirs_DD.trace() - 2 * cross)


def kernel_distance(generated_ND: Tensor, real_MD: Tensor) -> float:
    """Unbiased squared MMD under the cubic polynomial kernel (arXiv:1801.01401); may fall below 0 by chance."""
    generated_ND, real_MD = generated_ND.double(), real_MD.double()
    n, m = len(generated_ND), len(real_MD)
    within_ours = (_cubic(generated_ND, generated_ND).sum() - _cubic_diagonal(generated_ND)) / (n * (n - 1))
    within_theirs = (_cubic(real_MD, real_MD).sum() - _cubic_diagonal(real_MD)) / (m * (m - 1))
    return float(within_ours + within_theirs - 2 * _cubic(generated_ND, real_MD).mean())


def neighbourhoods(generated_ND: Tensor, real_MD: Tensor, *, near: int = 3, k: int = 5) -> dict[str, float]:
    """Shares in [0, 1], and density from 0 up, by balls around rows that reach their nearest neighbours.

    Precision and recall use `near` neighbours (arXiv:1904.06991), density and coverage `k` (arXiv:2002.09797).
    """
    across_NM = torch.cdist(generated_ND, real_MD)
    real_MM, generated_NN = torch.cdist(real_MD, real_MD), torch.cdist(generated_ND, generated_ND)
    near_real_M, near_generated_N = _radius(real_MM, near), _radius(generated_NN, near)
    inside_NM = across_NM <= _radius(real_MM, k)
    return {
        "precision": float((across_NM <= near_real_M).any(dim=1).float().mean()),
        "recall": float((across_NM <= near_generated_N[:, None]).any(dim=0).float().mean()),
        "density": float(inside_NM.float().sum(dim=1).mean() / k),
        "coverage": float(inside_NM.any(dim=0).float().mean()),
    }


def copied(generated_ND: Tensor, training_MD: Tensor, *, ratio: float = 1 / 3, chunk: int = 512) -> Tensor:
    """Which rows copy a training row [N]: the nearest is `ratio` times as far as the second, or nearer.

    The criterion of arXiv:2310.02664. Being relative it holds for blurred rows too, which are near to many rows but
    to none in particular. A training row that stands there twice hides its copies: deduplicate first.
    """
    return suspicion(generated_ND, training_MD, chunk=chunk)[0] <= ratio


def suspicion(generated_ND: Tensor, training_MD: Tensor, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """The distance of the nearest training row over that of the second [N], 0 for a copy; and which it is [N]."""
    shares, places = [], []
    for part_BD in torch.split(generated_ND, chunk):
        distance_B2, nearest_B2 = _two_nearest(part_BD, training_MD)
        best_B = distance_B2.argmin(dim=1, keepdim=True)
        shares.append(distance_B2.min(dim=1).values / distance_B2.max(dim=1).values.clamp(min=1e-12))
        places.append(nearest_B2.gather(1, best_B)[:, 0])
    return torch.cat(shares), torch.cat(places)


def authentic(generated_ND: Tensor, training_MD: Tensor, *, chunk: int = 512) -> Tensor:
    """Which rows are further from their nearest training row than that one is from the next [N] (arXiv:2102.08921).

    Rows that were drawn like the training rows are so about as often as not: compare with held-out ones.
    """
    flags = []
    for part_BD in torch.split(generated_ND, chunk):
        distance_B2, nearest_B2 = _two_nearest(part_BD, training_MD)
        place_B = nearest_B2.gather(1, distance_B2.argmin(dim=1, keepdim=True))[:, 0]
        beside_B2, _ = _two_nearest(training_MD[place_B], training_MD)  # itself, and the next
        flags.append(distance_B2.min(dim=1).values > beside_B2.max(dim=1).values)
    return torch.cat(flags)


def nearer(generated_ND: Tensor, one_MD: Tensor, other_KD: Tensor) -> Tensor:
    """Which rows are nearer to one set than to another [N]; as many of each set are taken, by lot with a fixed seed."""
    size, lot = min(len(one_MD), len(other_KD)), torch.Generator().manual_seed(0)
    sets = [rows[torch.randperm(len(rows), generator=lot)[:size]] for rows in (one_MD, other_KD)]
    return nearest(generated_ND, sets[0]) < nearest(generated_ND, sets[1])


def nearest(rows_ND: Tensor, among_MD: Tensor, *, chunk: int = 512) -> Tensor:
    """How far the nearest of some rows is from each [N]."""
    parts = torch.split(rows_ND, chunk)
    return torch.cat([_two_nearest(part_BD, among_MD)[0].min(dim=1).values for part_BD in parts])


def _two_nearest(rows_BD: Tensor, among_MD: Tensor) -> tuple[Tensor, Tensor]:
    """The distances [B, 2] of the two nearest, and which they are."""
    squared_BM = rows_BD.square().sum(dim=1, keepdim=True) + among_MD.square().sum(dim=1) - 2 * rows_BD @ among_MD.T
    nearest_B2 = squared_BM.topk(2, dim=1, largest=False).indices
    # the expansion above loses digits where it matters, near zero: measure the two nearest again
    return (rows_BD[:, None] - among_MD[nearest_B2]).norm(dim=2), nearest_B2


def entropy_share(labels_N: Tensor, classes: int) -> float:
    """Entropy of the labels' counts over its maximum: 1 when balanced, 0 when all rows share one label."""
    shares = torch.bincount(labels_N, minlength=classes).double() / len(labels_N)
    return float(torch.special.entr(shares).sum() / torch.log(torch.tensor(classes, dtype=torch.float64)))


def psnr(one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each row [B] in decibels, for pixels in [-1, 1]; infinite where they agree."""
    error_B = (one_BCHW - other_BCHW).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(2**2 / error_B)


def ssim(one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """Structural similarity of each row [B], for pixels in [-1, 1] (Wang et al., 2004, eq. 13 with its constants).

    A Gaussian window of 11 x 11 and deviation 1.5, wherever it fits whole; a smaller picture gets one of its own size.
    """
    # [0, 1]: the luminance term compares means, so it needs black at 0
    one_BCHW, other_BCHW = (one_BCHW.float() + 1) / 2, (other_BCHW.float() + 1) / 2
    size = min(11, *one_BCHW.shape[-2:])
    line = torch.exp(-(torch.arange(size, device=one_BCHW.device) - (size - 1) / 2).square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(picture_BCHW: Tensor) -> Tensor:
        rows, channels, height, width = picture_BCHW.shape
        return F.conv2d(picture_BCHW.reshape(rows * channels, 1, height, width), window).reshape(rows, -1)

    with torch.autocast(one_BCHW.device.type, enabled=False):  # differences of nearly equal squares: bf16 loses them
        mean_one, mean_other = local(one_BCHW), local(other_BCHW)
        variance_one, variance_other = local(one_BCHW**2) - mean_one**2, local(other_BCHW**2) - mean_other**2
        covariance = local(one_BCHW * other_BCHW) - mean_one * mean_other
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_one * mean_other + c1) / (mean_one**2 + mean_other**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance_one + variance_other + c2)).mean(dim=1)


def _cubic(left_ND: Tensor, right_MD: Tensor) -> Tensor:
    return (left_ND @ right_MD.T / left_ND.shape[1] + 1) ** 3


def _cubic_diagonal(rows_ND: Tensor) -> Tensor:
    return ((rows_ND.square().sum(dim=1) / rows_ND.shape[1] + 1) ** 3).sum()


def _radius(distances_NN: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th neighbour, itself not counted; to the last one where there are fewer."""
    return distances_NN.kthvalue(min(k + 1, distances_NN.shape[1]), dim=1).values
