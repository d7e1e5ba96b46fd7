"""Gates: each bound of the recipe held against a candidate's scores, and the verdict over all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import stdtrit as student_quantile  # scipy.stats takes half a second to import

from components import modalities
from components.errors import GateFailed
from components.recipe import Gate, Recipe
from components.records import Check, Scores, Trained, Verdict


@dataclass(frozen=True)
class Estimate:
    """Mean over sampling seeds, the standard error of that mean, and the seeds it rests on."""

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        return cls(fmean(values), math.sqrt(variance(values) / len(values)), len(values))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided Student interval of the mean."""
        reach = float(student_quantile(self.count - 1, (1 + confidence) / 2)) * self.error
        return self.mean - reach, self.mean + reach


def gate(trained: Trained, scores: Scores, recipe: Recipe, champion: Scores | None) -> Verdict:
    """The verdict on one candidate: it passes where every gate does; a gate without a finite number fails."""
    directions: Mapping[str, str] = modalities.part(recipe.modality, "metrics").DIRECTIONS
    checks = tuple(_check(rule, scores, champion, directions[rule.metric]) for rule in recipe.gates)
    return Verdict(
        model=recipe.model,
        candidate=trained.candidate,
        family=trained.family,
        bundle=scores.bundle,
        scores=scores,
        checks=checks,
        rank=fmean(scores.values[recipe.rank_by]) * (1 if directions[recipe.rank_by] == "lower" else -1),
        passed=all(check.passed for check in checks),
    )


def best(verdicts: Sequence[Verdict], trained: Sequence[Trained] = ()) -> Verdict:
    """The verdict of the lowest rank among those that passed; `GateFailed`, with all of it, where none did."""
    passed = [verdict for verdict in verdicts if verdict.passed and math.isfinite(verdict.rank)]
    if passed:
        return min(passed, key=lambda verdict: verdict.rank)
    failures = "; ".join(
        f"{verdict.candidate}: "
        + ", ".join(f"{check.gate} ({check.reason})" for check in verdict.checks if not check.passed)
        for verdict in verdicts
    )
    raise GateFailed(
        f"no candidate of {verdicts[0].model} passed its gates, so nothing was registered. {failures}. "
        "Train longer, change the candidates, or move the bounds in the recipe if they ask too much.",
        verdicts,
        trained,
    )


def _check(rule: Gate, scores: Scores, champion: Scores | None, direction: str) -> Check:
    ours = Estimate.of(scores.values[rule.metric])
    low, high = ours.interval(rule.confidence)
    check = Check(gate="", metric=rule.metric, value=ours.mean, low=low, high=high, passed=False)
    if rule.not_worse_than is None:
        return _absolute(rule, check)
    own = champion is not None and champion.bundle == scores.bundle
    return _against_champion(rule, check, ours, champion, direction, own=own)


def _absolute(rule: Gate, check: Check) -> Check:
    bound = rule.at_most if rule.at_most is not None else rule.at_least
    assert bound is not None
    word = "at most" if rule.at_most is not None else "at least"
    holds = check.value <= bound if rule.at_most is not None else check.value >= bound
    return check.model_copy(
        update={
            "gate": f"{rule.metric} {word} {bound:g}",
            "bound": bound,
            "passed": math.isfinite(check.value) and holds,
            "reason": "" if holds else f"it is {check.value:.4g}",
        }
    )


def _against_champion(
    rule: Gate, check: Check, ours: Estimate, champion: Scores | None, direction: str, *, own: bool
) -> Check:
    """A test of non-inferiority: with the stated confidence, not worse by more than the tolerance (Welch)."""
    sentence = f"{rule.metric} not worse than champion, tolerance {rule.tolerance:.0%}"
    if champion is None:
        return check.model_copy(
            update={"gate": sentence, "passed": math.isfinite(check.value), "reason": "there is no champion yet"}
        )
    theirs = Estimate.of(champion.values[rule.metric])
    if own:
        itself = {
            "gate": sentence,
            "bound": theirs.mean,
            "champion": theirs.mean,
            "reason": "it is the champion itself",
        }
        return check.model_copy(update={**itself, "passed": math.isfinite(check.value)})
    sign = 1 if direction == "lower" else -1
    worse = sign * (ours.mean - theirs.mean) + _welch_reach(ours, theirs, rule.confidence)
    allowed = rule.tolerance * abs(theirs.mean)
    holds = math.isfinite(worse) and worse <= allowed
    return check.model_copy(
        update={
            "gate": sentence,
            "bound": theirs.mean + sign * allowed,
            "champion": theirs.mean,
            "passed": holds,
            "reason": ""
            if holds
            else f"it may be worse than the champion's {theirs.mean:.4g} by {worse:.3g}, more than {allowed:.3g}",
        }
    )


def _welch_reach(ours: Estimate, theirs: Estimate, confidence: float) -> float:
    """One-sided reach of the difference of two means whose variances differ."""
    squared = ours.error**2 + theirs.error**2
    if squared == 0:
        return 0.0
    freedom = squared**2 / (ours.error**4 / (ours.count - 1) + theirs.error**4 / (theirs.count - 1))
    return float(student_quantile(freedom, confidence)) * math.sqrt(squared)
