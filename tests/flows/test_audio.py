"""The line for sounds through the real command: a voice that is given texts, from its recordings to a served WAV."""

import io
import wave

import pytest

from tests.flows.test_line import Answer, Place

SETTINGS = (
    "candidates.wavenet={family: wavenet, train: {steps: 30, batch_size: 8},"
    " config: {speaks: true, conditional: true, layers: 5, width: 8, skipped: 8, told: 8, segment: 400}}",
    "prepare={rate: 8000, seconds: 1.0, trim: true, text: 64}",
    "evaluate={samples: 16, seeds: [0, 1]}",
    "controls.label={default: any}",
    "controls.seconds={default: 0.3, at_least: 0.1, at_most: 10.0}",
    "gates=[{metric: bits_per_sample, at_most: 9}, {metric: understood, at_least: 0},"
    " {metric: label_accuracy, at_least: 0}, {metric: coverage, waived: noise after so few steps},"
    " {metric: clicks, waived: the same}, {metric: clipped, waived: the same}, {metric: copied, waived: few samples}]",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("audio") / "workspace")


@pytest.fixture(scope="module")
def run(place: Place) -> Answer:
    return place.atelier("run", "spoken-digits", *(part for setting in SETTINGS for part in ("--set", setting)))


def test_a_voice_is_scored_in_bits_and_by_what_is_understood_of_it(run: Answer) -> None:
    assert run.code == 0, run.json
    (verdict,) = run.run()["verdicts"]
    values, floor = verdict["scores"]["values"], verdict["scores"]["floor"]
    assert 5 < values["bits_per_sample"][0] < 8 and len(set(values["bits_per_sample"])) == 1
    assert all(0 <= share <= 1 for share in values["understood"] + values["understood_new"])
    assert 4 < floor["bits_per_sample"] < 5.5  # linear prediction of real speech
    assert floor["understood"] > 0.5  # real recordings are understood
    assert all(0 <= share <= 1 for share in values["label_accuracy"])
    assert floor["label_accuracy"] > 0.4  # of six classes, some of two seconds in all


def test_the_report_has_players_and_spectrograms_and_a_served_wav_lies_beside_it(run: Answer, place: Place) -> None:
    folder = place.root / "reports" / "spoken-digits"
    page = (folder / "report.html").read_text()
    assert page.count("<audio") >= 2 and page.count("<img") >= 2
    with wave.open(io.BytesIO((folder / "served.wav").read_bytes())) as file:
        assert file.getframerate() == 8000 and 800 <= file.getnframes() <= 2400
