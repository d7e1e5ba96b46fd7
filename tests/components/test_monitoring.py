"""What the monitor finds: each planted drift, nothing in healthy traffic, however it comes in bursts."""

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from components import monitoring
from components.bundle import EndpointCard, assemble
from components.drift import Drift
from components.errors import AtelierError
from components.modalities.image.batch import ImageSpec
from components.observed import Observed
from components.recipe import Monitor
from components.records import Artifact
from components.store import Store
from tests.components.traffic import DAY, START, Held, Traffic, write

HEALTHY = Traffic(burst=20, habit=1.0)
SETTINGS = Monitor()


def told(side: monitoring.Side) -> str:
    return json.dumps(side.as_json(), sort_keys=True)


def found(before: pa.Table, now: pa.Table, thumbs=(0, 0), below=None, settings=SETTINGS):
    mix = monitoring.first_window(Held(before))
    window = monitoring.counted_in(Held(now), mix.groups, slow_above=mix.slow_above)
    return monitoring.compare(window, mix=mix, bundle=None, thumbs=thumbs, settings=settings, feedback_below=below)


def drifted(*sides, **options) -> set[str]:
    columns, rates, _ = found(*sides, **options)
    return {one.name for one in (*columns, *rates) if one.standing == "drifted"}


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        ({}, set()),
        ({"truncation": 0.7}, {"controls.truncation"}),
        ({"label": (0.1, 0.2, 0.7)}, {"controls.label"}),
        ({"brightness": 0.45}, {"outputs.mean", "outputs.edges"}),
        ({"moderated": 0.05}, {"moderated"}),
        ({"failed": 0.04}, {"failed"}),
        ({"seconds": 0.12}, {"slow"}),
        ({"seconds": 0.03}, set()),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_what_is_planted_is_found_and_nothing_else(planted, seen):
    before, now = HEALTHY.table(3000, seed=1), HEALTHY.but(**planted).table(3000, seed=2)
    assert drifted(before, now) == seen


def test_unchanged_traffic_alarms_at_most_as_often_as_it_says_where_a_bound_alone_would():
    """Bursts of requests that are alike, few of them: what chance alone does to the index passes the bound often."""
    bursty, naive, alarms = Traffic(burst=30, habit=8.0), 0, 0
    for seed in range(60):
        columns, rates, _ = found(bursty.table(400, seed=seed), bursty.table(400, seed=1000 + seed))
        judged = [one for one in columns if one.standing in ("steady", "drifted")]
        assert len(judged) >= 7, "all are judged"
        before, now = (Held(bursty.table(400, seed=first + seed)) for first in (0, 1000))
        mix = monitoring.first_window(before)
        window = monitoring.counted_in(now, mix.groups)
        naive += any(
            monitoring.histograms.shift(mix.counts[one.name].sum(axis=0), window.counts[one.name].sum(axis=0)) > 0.2
            for one in judged
        )
        alarms += any(one.standing == "drifted" for one in (*columns, *rates))
    assert alarms <= monitoring.FALSE_ALARMS * 60
    assert naive > 6, "or the traffic is no test"


def test_the_first_window_is_checked_against_itself_and_one_that_changed_within_is_seen():
    calm = monitoring.first_window(Held(HEALTHY.table(4000, seed=3)))
    assert monitoring.resampled(calm, SETTINGS) <= monitoring.FALSE_ALARMS
    wild = [HEALTHY.but(truncation=value).table(170, seed=n) for n, value in enumerate(np.linspace(0.5, 1.5, 24))]
    changing = monitoring.first_window(Held(pa.concat_tables(wild)))
    spread = Monitor(drift_above=0.01)
    assert monitoring.resampled(changing, spread) >= monitoring.resampled(calm, spread)


def test_too_few_requests_are_judged_by_nobody():
    few = HEALTHY.but(truncation=0.7, moderated=0.5).table(150, seed=2)
    columns, rates, _ = found(HEALTHY.table(3000, seed=1), few)
    assert {one.standing for one in columns} == {"told", "too few"} and {one.standing for one in rates} == {"too few"}
    assert drifted(HEALTHY.table(3000, seed=1), few, settings=Monitor(at_least=100)) >= {"controls.truncation"}


def test_who_asks_is_told_and_not_judged():
    before, now = (HEALTHY.table(3000, seed=seed) for seed in (1, 2))
    moved = now.set_column(now.schema.get_field_index("team"), "team", pa.array(["new"] * len(now)))
    columns, _, _ = found(before, moved)
    (team,) = (one for one in columns if one.name == "requests.team")
    assert team.low > 1 and team.standing == "told"
    assert drifted(before, moved) == set()


@pytest.mark.parametrize(
    ("thumbs", "standing"),
    [((0, 0), "too few"), ((3, 3), "steady"), ((10, 40), "drifted"), ((90, 10), "steady"), ((55, 45), "steady")],
)
def test_thumbs_are_low_where_their_share_surely_is(thumbs, standing):
    sides = HEALTHY.table(500, seed=1), HEALTHY.table(500, seed=2)
    assert found(*sides, thumbs=thumbs, below=0.6)[2].standing == standing
    assert found(*sides, thumbs=thumbs)[2].standing == "told"


def test_a_control_that_nobody_set_before_and_all_set_now():
    before, now = HEALTHY.table(2000, seed=1), HEALTHY.table(2000, seed=2)
    there = np.arange(2000) % 2 == 0
    before = before.append_column("control.style", pa.array(np.ones(2000), mask=there))
    now = now.append_column("control.style", pa.array(np.ones(2000)))
    assert drifted(before, now) == {"controls.style"}


def test_a_feature_that_is_no_number_any_more_is_no_crash():
    before, now = HEALTHY.table(2000, seed=1), HEALTHY.table(2000, seed=2)
    broken = pa.array(np.full(2000, np.nan, np.float32))
    now = now.set_column(now.schema.get_field_index("output.mean"), "output.mean", broken)
    columns, _, _ = found(before, now)
    assert {one.standing for one in columns if one.name == "outputs.mean"} == {"too few"}


def test_what_a_bundle_draws_is_the_same_each_time_and_what_is_served_is_held_against_it(tmp_path):
    store = Store(tmp_path)
    sides = {gain: drawn(store, gain) for gain in (1.0, 3.0)}
    assert told(drawn(store, 1.0)) == told(sides[1.0])
    assert sides[1.0].rows >= monitoring.SAMPLES
    moved = {}
    for gain in (1.0, 3.0):
        window = monitoring.counted_in(Held(of_served(store, gain)), sides[1.0].groups)
        columns, rates, _ = monitoring.compare(
            window, mix=None, bundle=sides[1.0], thumbs=(0, 0), settings=SETTINGS, feedback_below=None
        )
        assert len(columns) == len(sides[1.0].groups) and not rates
        moved[gain] = {one.name for one in columns if one.standing == "drifted"}
    assert not moved[1.0] and {"bundle.mean", "bundle.entropy"} <= moved[3.0]


def bundle_of(store: Store, gain: float) -> Artifact:
    import torch

    from components import families

    torch.manual_seed(0)
    vae = families.get("vae")
    with store.writing("weights") as draft:
        network = vae.Model(vae.Config(latent_dim=4, width=4, hidden=8), ImageSpec(channels=1, size=28))
        for weights in network.parameters():
            weights.data *= gain
        network.save(draft.directory)
    card = {"model": "toy", "controls": {"truncation": {"default": 1.0, "at_least": 0.3, "at_most": 1.5}}}
    return assemble(draft.artifact, EndpointCard.model_validate(card), store)


def drawn(store: Store, gain: float) -> monitoring.Side:
    bundle = bundle_of(store, gain)
    side = monitoring.drawn(store.path(bundle), digest=bundle.digest)
    assert side is not None
    return side


def of_served(store: Store, gain: float) -> pa.Table:
    """Healthy requests, whose outputs are those of a bundle from seeds of their own."""
    from components import sampling

    bundle = bundle_of(store, gain)
    endpoint = sampling.load(store.path(bundle), digest=bundle.digest)
    rows = [endpoint.features(sample) for sample in endpoint.generate(list(range(10**6, 10**6 + 480)))]
    kept = HEALTHY.but(failed=0.0).table(480, seed=7)
    kept = kept.drop_columns([name for name in kept.column_names if name.startswith("output.") or name == "plain"])
    kept = kept.append_column("plain", pa.array([True] * 480))
    for name in rows[0]:
        kept = kept.append_column(f"output.{name}", pa.array([row[name] for row in rows], pa.float32()))
    return kept


def test_a_reference_is_kept_by_its_digest_and_a_damaged_one_is_told(tmp_path):
    store, side = Store(tmp_path), monitoring.first_window(Held(HEALTHY.table(500, seed=1)))
    kept = monitoring.keep(side, {"model": "toy"}, store)
    again, about = monitoring.kept(kept, store)
    assert about["model"] == "toy" and told(again) == told(side)
    (store.path(kept) / monitoring.FILE).write_text("{}")
    with pytest.raises(AtelierError, match="cannot be read"):
        monitoring.kept(kept, store)


def test_files_are_read_by_version_and_time_in_batches_and_broken_ones_are_counted(tmp_path):
    first, second = HEALTHY.table(1000, seed=1), HEALTHY.table(70_000, seed=2, start=START + DAY)
    write(tmp_path, first.drop_columns(["control.truncation"]))
    write(tmp_path, second, name="part-1.parquet")
    write(tmp_path, HEALTHY.table(500, seed=3, version="2"), name="part-2.parquet")
    write(tmp_path, HEALTHY.table(500, seed=4), model="other")
    (tmp_path / "model=toy" / "date=2026-11-01" / "part-9.parquet").write_bytes(b"cut off")
    seen = Observed(tmp_path, "toy", "1", START, START + 2 * DAY)
    assert (seen.count, seen.unreadable) == (71_000, 1) and seen.first < START + timedelta(hours=1)
    batches = list(seen.batches(["time", "control.truncation"]))
    assert sum(map(len, batches)) == 71_000 and max(map(len, batches)) <= 2**15
    assert sum(batch["control.truncation"].null_count for batch in batches) >= 1000
    assert Observed(tmp_path, "toy", "1", START + DAY, START + 2 * DAY).count == 70_000
    assert Observed(tmp_path, "toy", "2", START, START + DAY).count == 500
    nothing = Observed(tmp_path, "none", "1", START, START + DAY)
    assert (nothing.count, nothing.first, list(nothing.batches(["time"]))) == (0, None, [])


def test_counts_of_files_are_those_of_memory(tmp_path):
    table = HEALTHY.table(5000, seed=5)
    write(tmp_path, table)
    seen = Observed(tmp_path, "toy", "1", START, START + 2 * DAY)
    assert told(monitoring.first_window(seen)) == told(monitoring.first_window(Held(table)))


def test_an_outcome_is_a_sentence():
    columns, rates, feedback = found(HEALTHY.table(2000, seed=1), HEALTHY.but(truncation=0.7).table(2000, seed=2))
    drift = Drift(
        model="toy", version="1", bundle="b", since="a", until="b", requests=2000, looked_at=2000,
        first_window=("a", "b"), references={}, drift_above=0.2, columns=columns, rates=rates, feedback=feedback,
    )  # fmt: skip
    assert drift.outcome == "controls.truncation moved past what chance and the bound allow"
    steady = drift.model_copy(update={"columns": tuple(c for c in columns if c.standing != "drifted")})
    assert steady.outcome.startswith("nothing moved, of ")
    assert "not whole yet" in steady.model_copy(update={"first_window": None}).outcome
