"""Gates: each rule of the recipe and of its modality held against a candidate, and the verdict over all of them.

A bound holds where the number is on its right side with the gate's confidence: the end of its interval counts, not the
mean. What cannot be measured fails. Decisions are in `infra/decisions/0016-gates.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from components import estimates, measures, modalities
from components.errors import GateFailed
from components.estimates import Estimate
from components.recipe import Gate, Recipe
from components.records import Check, Footprint, Scores, Trained, Verdict


def rules(recipe: Recipe) -> tuple[Gate, ...]:
    """The recipe's gates, then the modality's own on metrics of which the recipe says nothing by itself."""
    said = {rule.metric for rule in recipe.gates if rule.not_worse_than != "champion"}
    own = [Gate.model_validate(rule) for rule in modalities.part(recipe.modality, "metrics").GATES]
    own.append(Gate(metric="latency_ms", at_most=recipe.serve.latency_ms))
    return *recipe.gates, *(rule for rule in own if rule.metric not in said and _can_be_asked(rule, recipe))


def _can_be_asked(rule: Gate, recipe: Recipe) -> bool:
    lacks = measures.lacking(
        rule.metric, modality=recipe.modality, controls=recipe.controls, prepare=recipe.prepare,
        inspected=recipe.moderation.images is not None,
    )  # fmt: skip
    return lacks is None


def gate(trained: Trained, scores: Scores, footprint: Footprint, recipe: Recipe, champion: Scores | None) -> Verdict:
    """The verdict on one candidate: it passes where every gate does; a gate without a finite number fails."""
    directions = measures.directions(recipe.modality)
    known = {
        "latency_ms": footprint.latency_ms,
        "megabytes": (footprint.bytes / 1e6,),
        "alarms": (float(len(trained.warnings)),),
    }
    measured = Measured(scores, known, measures.of_rows(recipe.modality))
    checks = tuple(_check(rule, measured, champion, directions[rule.metric]) for rule in rules(recipe))
    return Verdict(
        model=recipe.model,
        candidate=trained.candidate,
        family=trained.family,
        bundle=scores.bundle,
        scores=scores,
        checks=checks,
        rank=fmean(scores.values.get(recipe.rank_by, (math.nan,)))
        * (1 if directions[recipe.rank_by] == "lower" else -1),
        passed=all(check.passed for check in checks),
    )


def best_of(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The verdict of the lowest rank among those that passed; None where none did."""
    passed = [verdict for verdict in verdicts if verdict.passed and math.isfinite(verdict.rank)]
    return min(passed, key=lambda verdict: verdict.rank) if passed else None


def best(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of the lowest rank among those that passed; `GateFailed`, with all of it, where none did."""
    if (found := best_of(verdicts)) is not None:
        return found
    failures = "; ".join(
        f"{verdict.candidate}: "
        + ", ".join(f"{check.gate} ({check.reason})" for check in verdict.checks if not check.passed)
        for verdict in verdicts
    )
    raise GateFailed(
        f"no candidate of {verdicts[0].model} passed its gates, so nothing was registered. {failures}. "
        "Train longer, change the candidates, or move the bounds in the recipe if they ask too much.",
        verdicts,
    )


@dataclass(frozen=True)
class Measured:
    """All that was measured of one model."""

    scores: Scores
    known: Mapping[str, Sequence[float]]  # what is no score: time, size, alarms
    of_rows: Any

    def estimate(self, metric: str) -> Estimate | None:
        """None where it was not measured."""
        values = self.known.get(metric) or self.scores.values.get(metric)
        if values is None:
            return None
        if metric in self.scores.parts:
            return Estimate.of_parts(fmean(values), self.scores.parts[metric])
        if metric in self.of_rows:
            return Estimate.of_shares(values, self.scores.samples)
        return Estimate.of(values)


def _check(rule: Gate, measured: Measured, champion: Scores | None, direction: str) -> Check:
    check = Check(gate=_sentence(rule), metric=rule.metric, value=math.nan, low=math.nan, high=math.nan, passed=False)
    ours = measured.estimate(rule.metric)
    if ours is None:
        told = "it was not measured: nothing that this candidate makes or tells gives it"
        return _waived(rule, check) if rule.waived else check.model_copy(update={"reason": told})
    low, high = ours.limits(rule.confidence)
    check = check.model_copy(update={"value": ours.mean, "low": low, "high": high})
    if rule.waived:
        return _waived(rule, check)
    if not (math.isfinite(low) and math.isfinite(high)):
        return check.model_copy(update={"reason": "it is no finite number"})
    if rule.not_worse_than == "real":
        return _against_real(rule, check, measured.scores, direction)
    if rule.not_worse_than == "champion":
        return _against_champion(rule, check, measured, champion, direction)
    upper = rule.at_most is not None
    return _bounded(check, rule.at_most if upper else rule.at_least, rule.confidence, upper=upper)


def _waived(rule: Gate, check: Check) -> Check:
    return check.model_copy(update={"passed": True, "reason": f"waived: {rule.waived}"})


def _sentence(rule: Gate) -> str:
    if rule.waived:
        return f"{rule.metric} waived"
    if rule.not_worse_than is None:
        word, bound = ("at most", rule.at_most) if rule.at_most is not None else ("at least", rule.at_least)
        return f"{rule.metric} {word} {bound:g}"
    slack = [f"tolerance {rule.tolerance:.0%}"] if rule.tolerance or not rule.margin else []
    slack += [f"margin {rule.margin:g}"] if rule.margin else []
    return f"{rule.metric} not worse than {rule.not_worse_than}, {', '.join(slack)}"


def _bounded(check: Check, bound: float | None, confidence: float, *, upper: bool) -> Check:
    """Whether the number is on the right side of a bound, with that confidence."""
    assert bound is not None
    end = check.high if upper else check.low
    holds = end <= bound if upper else end >= bound
    if holds:
        reason = ""
    elif (check.value <= bound) if upper else (check.value >= bound):
        reason = (
            f"it is {check.value:.4g}, but may be {end:.4g} at a confidence of {confidence:.0%}: more samples or seeds "
            "would tell"
        )
    else:
        reason = f"it is {check.value:.4g}"
    return check.model_copy(update={"bound": bound, "passed": holds, "reason": reason})


def _against_real(rule: Gate, check: Check, scores: Scores, direction: str) -> Check:
    """A bound that real rows set: what they score themselves, less what the recipe allows."""
    real = scores.floor.get(rule.metric)
    if real is None or not math.isfinite(real):
        return check.model_copy(update={"reason": "real rows have no such score to compare with"})
    allowed = rule.tolerance * abs(real) + rule.margin
    upper = direction == "lower"
    held = _bounded(check, real + allowed if upper else real - allowed, rule.confidence, upper=upper)
    return held.model_copy(update={"reason": f"{held.reason}; real rows have {real:.4g}" if held.reason else ""})


def _against_champion(rule: Gate, check: Check, measured: Measured, champion: Scores | None, direction: str) -> Check:
    """A test of non-inferiority: with the stated confidence, not worse by more than what the recipe allows."""
    if champion is None:
        return check.model_copy(update={"passed": True, "reason": "there is no champion yet"})
    if (other := _other_terms(measured.scores, champion)) is not None:
        return check.model_copy(
            update={"reason": f"the champion was scored with another {other}: that compares nothing"}
        )
    theirs = Measured(champion, {}, measured.of_rows).estimate(rule.metric)
    if theirs is None or not math.isfinite(theirs.mean):
        return check.model_copy(update={"reason": "the champion has no such score to compare with"})
    if champion.bundle == measured.scores.bundle:
        itself = {"bound": theirs.mean, "champion": theirs.mean, "passed": True, "reason": "it is the champion itself"}
        return check.model_copy(update=itself)
    sign = 1 if direction == "lower" else -1
    worse = sign * (check.value - theirs.mean) + _reach(rule, measured, champion, theirs)
    allowed = rule.tolerance * abs(theirs.mean) + rule.margin
    holds = math.isfinite(worse) and worse <= allowed
    reason = f"it may be worse than the champion's {theirs.mean:.4g} by {worse:.3g}, more than {allowed:.3g}"
    return check.model_copy(
        update={
            "bound": theirs.mean + sign * allowed,
            "champion": theirs.mean,
            "passed": holds,
            "reason": "" if holds else reason,
        }
    )


def _other_terms(ours: Scores, theirs: Scores) -> str | None:
    """What of the terms differs under which both were scored; None where their numbers compare."""
    terms = {"held-out side": "held_out", "encoder": "encoder", "number of samples": "samples"}
    return next((name for name, field in terms.items() if getattr(ours, field) != getattr(theirs, field)), None)


def _reach(rule: Gate, measured: Measured, champion: Scores, theirs: Estimate) -> float:
    """How much further from the champion than measured the candidate may be.

    Both foretell the same parts of the same held-out side: what makes a part hard cancels out in the differences.
    """
    ours = measured.estimate(rule.metric)
    assert ours is not None
    pairs = [one.parts.get(rule.metric, ()) for one in (measured.scores, champion)]
    if len(pairs[0]) == len(pairs[1]) > 1:
        paired = Estimate.of([one - other for one, other in zip(*pairs, strict=True)])
        return estimates.reach_between(paired, Estimate(0.0, 0.0, math.inf), rule.confidence)
    return estimates.reach_between(ours, theirs, rule.confidence)
