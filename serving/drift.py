"""What the monitor found last, as gauges: it writes a file for each model beside its observations."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

WHOSE = ("model", "version")


def read(folder: Path | None) -> list[dict[str, Any]]:
    """The files of all models under the folder of observations; what is none is left out."""
    found = []
    for path in sorted(folder.glob("model=*/drift.json")) if folder is not None else ():
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_bytes()))
    return found


class Drift:
    """Gauges that say what the newest file of each model says; a model whose file is gone has none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(f"atelier_{name}", told, (*WHOSE, *labels), registry=registry)

        self._shift = gauge("drift_shift", "How far a thing moved since the promotion (PSI).", "what")
        self._rate = gauge("drift_rate", "Shares of requests in the monitor's window.", "what")
        self._found = gauge("drift_found", "1 where a thing moved past its bound, else 0.", "what")
        self._thumbs = gauge("feedback_up", "Share of thumbs that are up in the monitor's window.")
        self._requests = gauge("monitor_requests", "Requests in the monitor's window.")
        self._time = gauge("monitor_until_seconds", "The end of the monitor's window, in unix time.")
        self._false = gauge("monitor_false_alarms", "Share of false alarms on the first window's own data.")

    def tell(self, found: Sequence[dict[str, Any]]) -> None:
        """Say what `read` found, and nothing of what was said before."""
        every = (self._shift, self._rate, self._found, self._thumbs, self._requests, self._time, self._false)
        for gauge in every:
            gauge.clear()
        for one in found:
            with suppress(KeyError, TypeError, ValueError):  # of another version of the platform
                self._tell(one)

    def _tell(self, found: dict[str, Any]) -> None:
        whose = found["model"], found["version"]
        self._requests.labels(*whose).set(found["requests"])
        self._time.labels(*whose).set(datetime.fromisoformat(found["until"]).timestamp())
        for column in found["columns"]:
            self._shift.labels(*whose, column["name"]).set(column["shift"])
        for rate in found["rates"]:
            self._rate.labels(*whose, rate["name"]).set(rate["now"])
        for one in (*found["columns"], *found["rates"], {"name": "feedback", **found["feedback"]}):
            self._found.labels(*whose, one["name"]).set(one["standing"] == "drifted")
        if found["feedback"]["share"] is not None:
            self._thumbs.labels(*whose).set(found["feedback"]["share"])
        if found["false_alarms"] is not None:
            self._false.labels(*whose).set(found["false_alarms"])
