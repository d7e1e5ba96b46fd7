"""A Bento taken elsewhere: what is told where it cannot be, and that nothing of this checkout goes with it."""

from pathlib import Path

import pytest

from components import delivery
from components.closure import ROOT
from components.errors import AtelierError


def test_a_machine_without_an_engine_is_told_in_one_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        AtelierError, match=r"no engine that builds containers: none of docker, podman.*--check"
    ) as told:
        delivery.containerize("toy:v1-0", home=tmp_path)
    assert "\n" not in str(told.value)


def test_an_engine_that_fails_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "podman"
    engine.write_text("#!/bin/sh\necho no room left on the disk >&2\nexit 3\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AtelierError, match="podman could not build a container of toy:v1-0") as told:
        delivery.containerize("toy:v1-0", home=tmp_path)
    assert "\n" not in str(told.value)


def test_the_clean_environment_leads_nowhere_into_this_checkout(tmp_path: Path) -> None:
    seen = {"PATH": f"{ROOT}/.venv/bin:/usr/bin", "VIRTUAL_ENV": f"{ROOT}/.venv", "HERE": str(ROOT), "LANG": "C"}
    assert delivery._clean(seen) == {"PATH": "/usr/bin", "LANG": "C"}


def test_requirements_that_cannot_be_had_are_told_with_the_mend(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("no-such-package-as-this==1.0\n")
    seen = {"PATH": "/usr/bin:/bin", "UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
    with pytest.raises(AtelierError, match=r"cannot be installed.*no-such-package-as-this.*UV_INDEX_URL") as told:
        delivery._installed(requirements, tmp_path / "venv", seen)
    assert "\n" not in str(told.value)
    assert (tmp_path / "venv" / "bin" / "python").exists()
