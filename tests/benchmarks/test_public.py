"""Public contenders: what is scored of their samples, and how a table shows them. Their environments are not made."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.store import Store
from tests.benchmarks import public, quality
from tests.components.prepared_pictures import prepared


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    store = Store(tmp_path_factory.mktemp("store"))
    return public._reference(prepared(store, held_out=256), store)


def test_real_rows_as_samples_reach_the_floor_and_noise_does_not(reference, tmp_path: Path) -> None:
    pixels = reference.held_out.pixels
    np.save(tmp_path / "samples-0.npy", pixels.numpy())
    np.save(tmp_path / "samples-1.npy", torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)).numpy())
    scores, floor = public.score(tmp_path, (0, 1), reference), reference.floor()
    assert scores["fd"][0] <= floor["fd"] < scores["fd"][1]
    assert scores["coverage"][0] >= floor["coverage"] > scores["coverage"][1]


def test_every_arm_has_its_script_and_its_own_pinned_package() -> None:
    for arm in public.CONTENDERS.values():
        assert (public.ARMS / f"{arm.script}.py").exists()
        assert "==" in arm.requires
    assert len({arm.script for arm in public.CONTENDERS.values()}) == len(public.CONTENDERS)


def test_a_table_shows_a_public_contender_beside_the_project_s_own() -> None:
    told = {"budget": "10min", "parameters": 12345, "samples_per_second": 99.6, "values": {"fd": [2.0], "kd": [1.0]}}
    cells = [{"contender": title, **told} for title in ("vae", "vae of pythae")]
    rows = quality.table(cells).splitlines()
    assert rows[0].startswith("| 10 minutes on 2 cores | FD |")
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| vae", "| vae of pythae"]
    assert rows[3].endswith("| 100 |  | 12,345 |")


def test_the_budget_of_a_gpu_is_for_our_own_and_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {title for title, asked in quality.CONTENDERS.items() if isinstance(asked, quality.Contender)}
    monkeypatch.setattr(quality, "cells", list)
    for there, asked in ((False, set()), (True, ours)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        missing = list(quality._missing(()))
        assert {contender for contender, budget in missing if budget == "gpu"} == asked
        assert {contender for contender, budget in missing if budget == "60s"} == set(quality.CONTENDERS)
