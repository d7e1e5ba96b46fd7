import math
from typing import Any

import pytest

from components import gating, recipe
from components.errors import GateFailed
from components.records import Artifact, Scores, Trained, Verdict


def artifact(kind: str, name: str) -> Artifact:
    return Artifact(kind=kind, digest=f"sha256:{name}")


def trained(candidate: str = "vae") -> Trained:
    return Trained(
        candidate=candidate, family="vae", weights=artifact("weights", candidate), curves=artifact("curves", candidate),
        seed=0, steps=10, seconds=1.0, samples_per_second=10.0, parameters=5, stopped="budget",
    )  # fmt: skip


def scores(name: str = "a", **values: tuple[float, ...]) -> Scores:
    filled = {"fd": (10.0, 10.2, 9.8), "kd": (0.1, 0.1, 0.1), "coverage": (0.5, 0.52, 0.48), **values}
    return Scores(
        bundle=artifact("bundle", name), encoder="sha256:e", held_out="sha256:h", samples=64, seeds=(0, 1, 2),
        values=filled, floor={"fd": 1.0}, pictures=artifact("pictures", name),
    )  # fmt: skip


def made(*gates: dict[str, Any], rank_by: str = "kd") -> recipe.Recipe:
    raw = {
        "model": "toy",
        "modality": "image",
        "data": {"source": "data/fashion"},
        "candidates": {"vae": {"family": "vae"}},
        "gates": list(gates),
        "rank_by": rank_by,
    }
    return recipe.parse(raw, "test")


def judge(*gates: dict[str, Any], ours: Scores | None = None, champion: Scores | None = None) -> Verdict:
    return gating.gate(trained(), ours or scores(), made(*gates), champion)


def test_absolute_bounds_hold_and_break() -> None:
    assert judge({"metric": "fd", "at_most": 10.5}, {"metric": "coverage", "at_least": 0.4}).passed
    verdict = judge({"metric": "fd", "at_most": 9.5}, {"metric": "coverage", "at_least": 0.4})
    assert not verdict.passed
    assert [check.passed for check in verdict.checks] == [False, True]
    assert verdict.checks[0].gate == "fd at most 9.5"
    assert "10" in verdict.checks[0].reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gate_without_a_finite_number_fails(bad: float) -> None:
    ours = scores(fd=(10.0, bad, 10.0))
    assert not judge({"metric": "fd", "at_most": 1e9}, ours=ours).passed
    assert not judge({"metric": "fd", "at_least": 0}, ours=ours).passed
    assert not judge({"metric": "fd", "not_worse_than": "champion"}, ours=ours, champion=scores("champion")).passed
    assert not judge({"metric": "fd", "not_worse_than": "champion"}, ours=ours).passed


def test_without_a_champion_the_comparison_passes_and_says_so() -> None:
    verdict = judge({"metric": "fd", "not_worse_than": "champion"})
    assert verdict.passed
    assert verdict.checks[0].reason == "there is no champion yet"


def test_the_interval_is_students() -> None:
    check = judge({"metric": "fd", "at_most": 11, "confidence": 0.95}).checks[0]
    assert check.value == pytest.approx(10)
    assert check.high - check.value == pytest.approx(4.30265 * 0.2 / math.sqrt(3), rel=1e-4)


def test_a_worse_candidate_loses_to_the_champion_in_either_direction() -> None:
    rule = {"not_worse_than": "champion", "tolerance": 0.05}
    assert not judge({"metric": "fd", **rule}, ours=scores(fd=(12, 12.1, 11.9)), champion=scores("champion")).passed
    assert judge({"metric": "fd", **rule}, ours=scores(fd=(8, 8.1, 7.9)), champion=scores("champion")).passed
    low, high = (0.3, 0.31, 0.29), (0.7, 0.71, 0.69)
    assert not judge({"metric": "coverage", **rule}, ours=scores(coverage=low), champion=scores("champion")).passed
    assert judge({"metric": "coverage", **rule}, ours=scores(coverage=high), champion=scores("champion")).passed


def test_the_champions_own_weights_are_not_worse_and_noise_beyond_the_tolerance_is() -> None:
    rule = {"metric": "fd", "not_worse_than": "champion", "tolerance": 0.05}
    steady = scores(fd=(10.0, 10.01, 9.99))
    assert judge(rule, ours=scores("b", fd=(10.0, 10.01, 9.99)), champion=steady).passed
    noisy = scores("b", fd=(6.0, 14.0, 10.0))  # the same mean, but it does not show that it is not worse
    assert not judge(rule, ours=noisy, champion=steady).passed


def test_a_champion_that_is_run_again_is_not_held_against_its_own_noise() -> None:
    noisy = scores(fd=(6.0, 14.0, 10.0))
    check = judge({"metric": "fd", "not_worse_than": "champion"}, ours=noisy, champion=noisy).checks[0]
    assert check.passed
    assert check.reason == "it is the champion itself"


def test_best_takes_the_lowest_rank_of_those_that_passed() -> None:
    good = judge({"metric": "fd", "at_most": 99}, ours=scores("good", kd=(0.2, 0.2, 0.2)))
    better = judge({"metric": "fd", "at_most": 99}, ours=scores("better", kd=(0.1, 0.1, 0.1)))
    failed = judge({"metric": "fd", "at_most": 1}, ours=scores("failed", kd=(0.0, 0.0, 0.0)))
    assert gating.best([good, better, failed]) == better


def test_best_of_none_names_every_failed_gate() -> None:
    failed = judge({"metric": "fd", "at_most": 1}, {"metric": "coverage", "at_least": 0.9})
    with pytest.raises(GateFailed, match=r"vae: fd at most 1 .*coverage at least 0.9") as caught:
        gating.best([failed])
    assert caught.value.exit_code == 4


def test_a_verdict_survives_its_json_even_with_nan() -> None:
    verdict = judge({"metric": "fd", "at_most": 1}, ours=scores(fd=(math.nan, 1.0, 2.0)))
    again = Verdict.model_validate_json(verdict.model_dump_json())
    assert again.fingerprint() == verdict.fingerprint()
    assert math.isnan(again.checks[0].value)
