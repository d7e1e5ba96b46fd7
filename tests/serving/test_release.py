"""The release record: what is read, and what is refused."""

import json

import pytest

from components.errors import AtelierError
from serving import release

SERVED = {"digest": "sha256:" + "a" * 64, "bento_model": "fashion:aa", "trace": {"run": "r"}}
FASHION = {"champion": "2", "challenger": "3", "previous": None, "versions": {"2": SERVED}}
RECORD = {"schema": 2, "number": 4, "models": {"fashion": FASHION}}


def test_a_record_is_read(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps(RECORD))
    found = release.read(tmp_path / "release.json")
    assert (found.number, found.models["fashion"].versions["2"].trace) == (4, {"run": "r"})


def test_an_alias_of_a_version_that_is_not_at_hand_is_not_offered(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps(RECORD))
    assert release.read(tmp_path / "release.json").models["fashion"].aliases == {"champion": "2"}


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (RECORD | {"schema": 1}, "schema"),
        (RECORD | {"number": -1}, "number"),
        (RECORD | {"models": []}, "models"),
        (RECORD | {"more": 1}, "more"),
        (RECORD | {"models": {"fashion": FASHION | {"champion": "9"}}}, "version 9 is champion"),
        (
            RECORD | {"models": {"fashion": FASHION | {"versions": {"2": SERVED | {"digest": "sha256:ab"}}}}},
            "models.fashion.versions.2.digest",
        ),
        ("{", "Expecting"),
        (None, "No such file"),
    ],
)
def test_a_bad_record_is_named_with_its_place(tmp_path, record, word):
    path = tmp_path / "release.json"
    if record is not None:
        path.write_text(record if isinstance(record, str) else json.dumps(record))
    with pytest.raises(AtelierError, match=word) as error:
        release.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
