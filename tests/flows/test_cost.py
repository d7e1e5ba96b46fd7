"""What a stage cost is measured, not guessed."""

from pathlib import Path

import numpy as np
import pytest

from flows import cost


def counter(root: Path, name: str, joules: float, *, range_joules: float = 1000.0) -> None:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{int(range_joules * 1e6)}\n")


def test_peak_memory_is_that_of_the_piece_of_work_and_not_of_what_came_before() -> None:
    big = np.ones(150 * 2**20, np.uint8)
    meter = cost.Meter()
    meter.start()
    meter.stop()
    with_big = meter.peak_memory
    del big
    small = cost.Meter()
    small.start()
    small.stop()
    assert with_big is not None and small.peak_memory is not None
    assert with_big - small.peak_memory > 100 * 2**20
    small.start()
    held = np.ones(150 * 2**20, np.uint8)
    del held
    small.stop()
    assert small.peak_memory > with_big - 50 * 2**20


def test_energy_is_the_sum_of_the_packages_and_a_counter_may_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter(tmp_path, "intel-rapl:0", 990)
    counter(tmp_path, "intel-rapl:1", 10)
    counter(tmp_path, "intel-rapl:0:0", 500)  # a part of package 0
    seen = cost.energy(tmp_path)
    assert {Path(name).name: value for name, value in seen.items() if "rapl" in name} == {
        "intel-rapl:0": 990, "intel-rapl:1": 10,
    }  # fmt: skip
    monkeypatch.setattr(cost, "_gpus", dict)
    meter = cost.Meter(powercap=tmp_path)
    meter.start()
    counter(tmp_path, "intel-rapl:0", 5)
    counter(tmp_path, "intel-rapl:1", 30)
    meter.stop()
    assert meter.joules == pytest.approx(15 + 20)


def test_a_machine_that_tells_no_energy_leaves_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_gpus", dict)
    meter = cost.Meter(powercap=tmp_path / "none")
    meter.start()
    meter.stop()
    assert meter.joules is None


def test_a_counter_that_runs_backwards_and_has_no_range_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_gpus", lambda: {"gpu0": 10.0})
    meter = cost.Meter(powercap=tmp_path / "none")
    meter.start()
    monkeypatch.setattr(cost, "_gpus", lambda: {"gpu0": 5.0})
    meter.stop()
    assert meter.joules is None
