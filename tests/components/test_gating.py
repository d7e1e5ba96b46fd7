import math
from typing import Any

import pytest

from components import gating, recipe
from components.errors import GateFailed
from components.records import Artifact, Footprint, Scores, Trained, Verdict


def artifact(kind: str, name: str) -> Artifact:
    return Artifact(kind=kind, digest=f"sha256:{name}")


def trained(candidate: str = "vae") -> Trained:
    return Trained(
        candidate=candidate, family="vae", weights=artifact("weights", candidate), curves=artifact("curves", candidate),
        seed=0, steps=10, seconds=1.0, samples_per_second=10.0, parameters=5, stopped="budget",
    )  # fmt: skip


def scores(name: str = "a", **values: tuple[float, ...]) -> Scores:
    filled = {
        "fd": (10.0, 10.2, 9.8), "kd": (0.1, 0.1, 0.1), "coverage": (0.5, 0.52, 0.48), "copied": (0.0,) * 3,
        "label_entropy": (0.9, 0.91, 0.89), "authenticity": (0.5,) * 3, "nearer_train": (0.5,) * 3, **values,
    }  # fmt: skip
    return Scores(
        bundle=artifact("bundle", name), encoder="sha256:e", held_out="sha256:h", samples=2048, seeds=(0, 1, 2),
        values=filled, floor={"fd": 1.0, "copied": 0.0, "authenticity": 0.55}, pictures=artifact("pictures", name),
    )  # fmt: skip


def footprint(*latency_ms: float) -> Footprint:
    return Footprint(bundle=artifact("bundle", "a"), latency_ms=latency_ms or (3.0, 3.1, 2.9), bytes=4_000_000)


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
    return gating.gate(trained(), ours or scores(), footprint(), made(*gates), champion)


def test_absolute_bounds_hold_and_break() -> None:
    assert judge({"metric": "fd", "at_most": 10.5}, {"metric": "coverage", "at_least": 0.4}).passed
    verdict = judge({"metric": "fd", "at_most": 9.5}, {"metric": "coverage", "at_least": 0.4})
    assert not verdict.passed
    assert [check.passed for check in verdict.checks][:2] == [False, True]
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
    assert check.high - check.value == pytest.approx(2.91999 * 0.2 / math.sqrt(3), rel=1e-4)


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


def test_a_bound_holds_only_where_the_end_of_the_interval_is_on_its_right_side() -> None:
    rule = {"metric": "fd", "at_most": 10.2}
    check = judge(rule).checks[0]
    assert check.value < 10.2 < check.high and not check.passed
    assert "more samples or seeds would tell" in check.reason
    assert judge({**rule, "confidence": 0.75}).checks[0].passed


def test_a_share_is_as_uncertain_as_its_rows_are_few_even_where_every_seed_agrees() -> None:
    rule = {"metric": "copied", "at_most": 0.001}
    check = judge(rule).checks[0]
    assert check.passed and 0.0004 < check.high < 0.0006  # of 6,144 rows: one minus the 6,144th root of 1/20
    few = scores().model_copy(update={"samples": 64})
    assert not judge(rule, ours=few).checks[0].passed


def test_what_each_model_foretells_of_the_same_rows_is_compared_part_by_part() -> None:
    rule = {"metric": "fd", "not_worse_than": "champion", "tolerance": 0.02}
    hard = [1.5 + 0.1 * part for part in range(16)]  # parts differ far more than models do

    def told(name: str, more: float) -> Scores:
        parts = tuple(bits + more + 0.002 * (-1) ** part for part, bits in enumerate(hard))
        return scores(name, fd=(sum(parts) / 16,) * 3).model_copy(update={"parts": {"fd": parts}})

    assert judge(rule, ours=told("a", 0.01), champion=told("b", 0.0)).checks[0].passed
    assert not judge(rule, ours=told("a", 0.1), champion=told("b", 0.0)).checks[0].passed


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"held_out": "sha256:other"}, "another held-out side"), ({"encoder": "sha256:other"}, "another encoder"),
        ({"samples": 1024}, "another number of samples"),
    ],
)  # fmt: skip
def test_a_champion_that_was_scored_on_other_terms_compares_with_nothing(other: dict[str, Any], told: str) -> None:
    rule = {"metric": "fd", "not_worse_than": "champion", "tolerance": 0.5}
    good = scores("b", fd=(9.0, 9.1, 8.9))
    assert judge(rule, ours=good, champion=scores("champion")).checks[0].passed
    check = judge(rule, ours=good, champion=scores("champion").model_copy(update=other)).checks[0]
    assert not check.passed and told in check.reason


def test_a_gate_on_what_was_not_measured_fails_and_says_so() -> None:
    verdict = gating.gate(trained(), scores(), footprint(), made({"metric": "recall", "at_least": 0.1}), None)
    assert not verdict.passed
    assert "was not measured" in verdict.checks[0].reason
    assert Verdict.model_validate_json(verdict.model_dump_json()).fingerprint() == verdict.fingerprint()


def test_a_bound_may_be_what_real_rows_score() -> None:
    rule = {"metric": "fd", "not_worse_than": "real", "margin": 8}
    check = judge(rule).checks[0]
    assert (check.gate, check.bound, check.passed) == ("fd not worse than real, margin 8", 9.0, False)
    assert check.reason == "it is 10; real rows have 1"
    assert judge({**rule, "tolerance": 2.0}).checks[0].passed
    unknown = judge({"metric": "coverage", "not_worse_than": "real"}).checks[0]
    assert not unknown.passed and "no such score" in unknown.reason


def test_the_modalitys_gates_are_added_unless_the_recipe_has_its_own_or_waives_them() -> None:
    asked = {"metric": "fd", "at_most": 60}
    added = ["copied", "authenticity", "nearer_train", "nearer_train", "label_entropy", "latency_ms"]
    assert [rule.metric for rule in gating.rules(made(asked))] == ["fd", *added]
    own = made(asked, {"metric": "copied", "at_most": 0.5})
    assert [rule.at_most for rule in gating.rules(own) if rule.metric == "copied"] == [0.5]
    compared = made(asked, {"metric": "copied", "not_worse_than": "champion"})
    assert [rule.not_worse_than for rule in gating.rules(compared) if rule.metric == "copied"] == ["champion", "real"]
    shoes = scores(label_entropy=(0.1, 0.1, 0.11))
    assert not judge(asked, ours=shoes).passed
    waived = judge(asked, {"metric": "label_entropy", "waived": "a catalogue of shoes alone"}, ours=shoes)
    assert waived.passed
    assert waived.checks[1].reason == "waived: a catalogue of shoes alone"


def test_a_slow_model_fails_the_recipes_own_latency() -> None:
    asked = made(
        {"metric": "fd", "at_most": 60}, {"metric": "megabytes", "at_most": 5}, {"metric": "alarms", "at_most": 0}
    )
    assert gating.gate(trained(), scores(), footprint(), asked, None).passed
    slow = gating.gate(trained(), scores(), footprint(700.0, 710.0, 690.0), asked, None)
    assert [check.gate for check in slow.checks if not check.passed] == ["latency_ms at most 500"]
    warned = trained().model_copy(update={"warnings": ("lost variety",)})
    failed = gating.gate(warned, scores(), footprint(), asked, None)
    assert [check.gate for check in failed.checks if not check.passed] == ["alarms at most 0"]
