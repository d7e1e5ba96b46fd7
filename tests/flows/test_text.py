"""The line for texts through the real command: two families trained, scored, registered, packaged and answering."""

import json
import subprocess
import sys

import pytest

from components.records import Artifact
from tests.flows.test_line import Answer, Place

SETTINGS = (
    "candidates.lstm={family: lstm, config: {width: 32, layers: 1}, train: {steps: 60, batch_size: 16}}",
    "candidates.gpt={family: gpt, config: {layers: 1, heads: 2, width: 32}, train: {steps: 30, batch_size: 16}}",
    "evaluate={samples: 16, seeds: [0, 1]}",
    "gates=[{metric: copied, at_most: 0.2}, {metric: bits_per_byte, at_most: 6},"
    " {metric: repetition, waived: few samples}, {metric: profane, waived: few samples},"
    " {metric: personal, waived: few samples}]",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("text") / "workspace")


@pytest.fixture(scope="module")
def run(place: Place) -> Answer:
    return place.atelier("run", "shakespeare", *(part for setting in SETTINGS for part in ("--set", setting)))


def test_both_families_are_scored_in_bits_and_the_better_becomes_champion(run: Answer, place: Place) -> None:
    assert run.code == 0, run.json
    verdicts = {verdict["candidate"]: verdict for verdict in run.run()["verdicts"]}
    bits = {name: verdict["scores"]["values"]["bits_per_byte"] for name, verdict in verdicts.items()}
    assert all(len(set(rounds)) == 1 and 3 < rounds[0] < 6 for rounds in bits.values())
    best = min(bits, key=lambda name: bits[name][0])
    assert all(verdict["scores"]["encoder"] is None for verdict in verdicts.values())
    (version,) = place.ledger.versions("shakespeare")
    assert version.bundle == verdicts[best]["bundle"]["digest"] and run.run()["alias"] == "champion"


def test_the_counted_floor_is_that_of_plays(run: Answer) -> None:
    floor = run.run()["verdicts"][0]["scores"]["floor"]
    assert 1.9 < floor["bits_per_byte"] < 2.2
    assert floor["copied"] < 0.05 and floor["known_words"] > 0.9


def test_the_report_shows_texts_and_a_served_one_lies_beside_it(run: Answer, place: Place) -> None:
    folder = place.root / "reports" / "shakespeare"
    page = (folder / "report.html").read_text()
    assert page.count("<pre ") >= 3 and "<img" not in page
    written = (folder / "lstm.txt").read_text()
    assert len(written) > 1000 and (folder / "served.txt").read_text()


def test_the_registered_version_writes_through_mlflow(run: Answer, place: Place) -> None:
    script = (
        "import mlflow, pandas as pd, json\n"
        "model = mlflow.pyfunc.load_model('models:/shakespeare@champion')\n"
        "rows = [{'seed': 7, 'prompt': 'ROMEO', 'max_tokens': 12}, {'seed': 7, 'prompt': '', 'max_tokens': 12}]\n"
        "told = model.predict(pd.DataFrame(rows))\n"
        "print(json.dumps([len(text) for text in told['text']]))\n"
    )
    uri = f"sqlite:///{place.root / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**place.environment(), "MLFLOW_TRACKING_URI": uri}, cwd=place.root,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(length >= 1 for length in json.loads(done.stdout.splitlines()[-1]))


def test_another_model_goes_on_from_the_champion_by_its_tokenizer(run: Answer, place: Place) -> None:
    (parent,) = place.ledger.versions("shakespeare")
    verdict = place.ledger.verdict(parent.verdict)
    assert verdict is not None
    config = "{width: 32, layers: 1}" if parent.family == "lstm" else "{layers: 1, heads: 2, width: 32}"
    more = [
        "model=sonnets", "prepare={context: 64, tokenizer: characters}",
        f"candidates={{later: {{family: {parent.family}, init: shakespeare@champion, config: {config},"
        " train: {steps: 5, batch_size: 16}}}",
        *SETTINGS[2:],
    ]  # fmt: skip
    ran = place.atelier("run", "shakespeare", *(part for setting in more for part in ("--set", setting)))
    assert ran.code == 0, ran.json
    (told,) = ran.run()["verdicts"]
    before = verdict.scores.values["bits_per_byte"][0]
    assert told["scores"]["values"]["bits_per_byte"][0] < before + 0.1  # five steps from nothing come to over 7
    shown = place.atelier("show", "sonnets")
    assert shown.json["init"] == "shakespeare@1"
    bento = place.root / "bentoml" / "bentos" / ran.run()["bento"].replace(":", "/")
    assert "`shakespeare@1`" in (bento / "README.md").read_text()
    child = place.ledger.versions("sonnets")[0]
    bundle = place.store.path(Artifact(kind="bundle", digest=child.bundle))
    model = json.loads((bundle / "config.json").read_text())
    assert model["spec"]["tokenizer"]["kind"] == "bytes"


@pytest.mark.parametrize(
    ("init", "told"),
    [("nobody@champion", "nobody"), ("shakespeare@9", "'9'"), ("shakespeare", "init")],
)
def test_a_beginning_that_is_not_there_is_refused_at_once(run: Answer, place: Place, init: str, told: str) -> None:
    setting = f"candidates={{later: {{family: gpt, init: {init}}}}}"
    ran = place.atelier("run", "shakespeare", "--set", "model=sonnets", "--set", setting)
    assert ran.code == 2 and told in json.dumps(ran.json)


def test_the_same_again_is_skipped(run: Answer, place: Place) -> None:
    again = place.atelier("run", "shakespeare", *(part for setting in SETTINGS for part in ("--set", setting)))
    assert again.code == 0
    assert {"train lstm", "train gpt", "evaluate lstm", "evaluate gpt"} <= again.cached()
