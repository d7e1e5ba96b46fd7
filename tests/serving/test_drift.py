"""What /metrics says of the monitor's findings: the newest of each model, and nothing of a model without any."""

import json

from starlette.testclient import TestClient

from components.drift import Column, Drift, Feedback, Rate
from tests.serving.shop import Shop, application, close

FOUND = Drift(
    model="fashion", version="7", bundle="sha256:b", since="2026-11-01T00:00:00.000Z",
    until="2026-11-02T00:00:00.000Z", requests=900, looked_at=300, first_window=("a", "b"), references={},
    drift_above=0.2, false_alarms=0.0,
    columns=(
        Column(name="outputs.mean", shift=0.8, low=0.5, high=1.1, before=900, now=900, standing="drifted", groups=()),
        Column(name="requests.team", shift=0.1, low=0.0, high=0.2, before=900, now=900, standing="told", groups=()),
    ),
    rates=(Rate(name="slow", before=0.01, now=0.02, rise=-0.1, bound=0.05, standing="steady"),),
    feedback=Feedback(up=3, down=1, share=0.75, high=0.98, bound=0.6, standing="steady"),
)  # fmt: skip


def test_the_gauges_follow_the_files_of_the_monitor(tmp_path):
    folder = tmp_path / "seen"
    shop = Shop(tmp_path)
    parts = shop.parts(shop.release(bare={"versions": {}}), observed=folder)
    try:
        client = TestClient(application(parts))
        assert "atelier_drift_shift{" not in client.get("/metrics").text
        place = folder / "model=fashion" / "drift.json"
        place.parent.mkdir(parents=True)
        place.write_text(FOUND.model_dump_json())
        (folder / "model=broken").mkdir()
        (folder / "model=broken" / "drift.json").write_text("{")
        (folder / "model=other").mkdir()
        (folder / "model=other" / "drift.json").write_text(json.dumps({"model": "other"}))
        told = client.get("/metrics").text
        place.unlink()
        after = client.get("/metrics").text
    finally:
        close(parts)
    whose = 'model="fashion",version="7"'
    for line in (
        f'atelier_drift_shift{{{whose},what="outputs.mean"}} 0.8',
        f'atelier_drift_found{{{whose},what="outputs.mean"}} 1.0',
        f'atelier_drift_found{{{whose},what="requests.team"}} 0.0',
        f'atelier_drift_rate{{{whose},what="slow"}} 0.02',
        f"atelier_feedback_up{{{whose}}} 0.75",
        f"atelier_monitor_requests{{{whose}}} 900.0",
        f"atelier_monitor_false_alarms{{{whose}}} 0.0",
        f"atelier_monitor_until_seconds{{{whose}}} 1.7935776e+09",
    ):
        assert line in told
    assert "atelier_drift_shift{" not in after
