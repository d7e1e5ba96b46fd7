"""The release record: what is read, and what is refused."""

import json

import pytest

from components.errors import AtelierError
from serving import release

SERVED = {"version": "2", "digest": "sha256:" + "a" * 64, "bento_model": "fashion:aa", "trace": {"run": "r"}}
RECORD = {"schema": 1, "number": 4, "models": {"fashion": SERVED}}


def test_a_record_is_read(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps(RECORD))
    found = release.read(tmp_path / "release.json")
    assert (found.number, found.models["fashion"].trace) == (4, {"run": "r"})


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (RECORD | {"schema": 2}, "schema"),
        (RECORD | {"number": 0}, "number"),
        (RECORD | {"models": {}}, "models"),
        (RECORD | {"more": 1}, "more"),
        (RECORD | {"models": {"fashion": SERVED | {"digest": "sha256:ab"}}}, "models.fashion.digest"),
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
