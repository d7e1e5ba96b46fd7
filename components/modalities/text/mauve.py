"""MAUVE of two sets of texts (Pillutla et al., 2021, arXiv:2102.01454): 1 where nothing tells them apart, down to 0.

It is measured over word vectors that a package brings, wordllama (256 numbers a piece of a word, their mean a text), if
that is installed; the paper's are of GPT-2, so its figures compare with none of the paper's. N texts, D features.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

SCALE = 5.0  # of divergences, as in the paper
MIXTURES = 25
TEXTS_OF_A_CLUSTER = 10  # the authors' rule
EXPLAINED = 0.9  # of the variance, by what clusters are sought in
PACKAGES = ("wordllama", "sklearn")
LACKING = "it needs packages that are not installed: pip install wordllama scikit-learn"


def installed() -> bool:
    return all(map(find_spec, PACKAGES))


def mauve(real: Sequence[str], generated: Sequence[str]) -> float:
    """The area under the divergence frontier of both sets, in clusters of their features, in [0, 1]."""
    return frontier(features(real), features(generated))


def features(texts: Sequence[str]) -> np.ndarray:
    """Each text [N, D], of length 1; one without any word is all zeros."""
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.nan_to_num(_vectors().embed(list(texts), norm=True))
    return found


def frontier(real_ND: np.ndarray, generated_ND: np.ndarray) -> float:
    """The paper's equations 1 and 2 over clusters of both sets, a tenth as many as the smaller has texts."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    both = PCA(EXPLAINED, svd_solver="full").fit_transform(np.concatenate([real_ND, generated_ND]))
    count = max(2, round(min(len(real_ND), len(generated_ND)) / TEXTS_OF_A_CLUSTER))
    chosen = KMeans(count, n_init=5, random_state=0).fit_predict(both)
    real, generated = (
        np.bincount(part, minlength=count) / len(part) for part in (chosen[: len(real_ND)], chosen[len(real_ND) :])
    )
    shares = np.linspace(1e-6, 1 - 1e-6, MIXTURES)[:, None]
    mixed = shares * real + (1 - shares) * generated
    points = [np.exp(-SCALE * _divergence(one, mixed)) for one in (generated, real)]
    x, y = np.concatenate([[[0.0], [1.0]], points, [[1.0], [0.0]]], axis=1)
    return float(_area(x, y) + _area(y, x)) / 2


def _divergence(one: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """KL(one || mixed) in nats, for each mixture."""
    there = one > 0
    found: np.ndarray = (one[there] * np.log(one[there] / mixed[:, there])).sum(axis=1)
    return found


def _area(x: np.ndarray, y: np.ndarray) -> float:
    order = np.argsort(x, kind="stable")
    return float(abs(np.trapezoid(y[order], x[order])))


@lru_cache(maxsize=1)
def _vectors() -> Any:
    import wordllama

    # where the package keeps its own, under the names of a cache: it would fetch its tokenizer otherwise
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
