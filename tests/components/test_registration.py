"""A real registry: versions are whole MLflow models, made once, and their aliases follow the ledger."""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from PIL import Image

from components import bundle, display, families, mlflow_model, registration, sampling
from components.controls import PublicControl
from components.errors import AtelierError, GateFailed
from components.ledger import Ledger, Version
from components.modalities.image import codec
from components.modalities.image.batch import ImageSpec
from components.recipe import Promotion
from components.records import Artifact, Check, Pointer, Registered, Scores, Verdict
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]
SPEC = ImageSpec(channels=1, size=8)
CONFIGS = {"vae": {"latent_dim": 2, "width": 4, "hidden": 8}, "dcgan": {"latent_dim": 4, "width": 4}}
LINEAGE = {"data": "md5:d.dir", "commit": "0123abc", "recipe": "sha256:r", "flow_run": "f-1"}
POINTERS = [Pointer(kind="shards", digest="sha256:s", dvc="md5:s.dir")]


@dataclass(frozen=True)
class Place:
    """A workspace with an MLflow database, a store and a ledger."""

    root: Path
    tracking_uri: str

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.root / 'ledger.db'}")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    def run(self, model: str) -> str:
        known = self.client.get_experiment_by_name(model)
        where = (self.root / "artifacts" / model).as_uri()
        experiment = known.experiment_id if known else self.client.create_experiment(model, where)
        return str(self.client.create_run(experiment).info.run_id)

    def register(
        self, verdict: Verdict, promotion: Promotion | None = None, *, decided_on: int | None = None
    ) -> Registered:
        """Register and appoint, as a run does."""
        wanted = promotion or Promotion()
        registered = registration.register(
            verdict,
            self.store.path(verdict.bundle),
            tracking_uri=self.tracking_uri,
            run=self.run(verdict.model),
            ledger=self.ledger,
            tags=LINEAGE,
            description="A small one.",
            pointers=POINTERS,
            promotion=wanted,
        )
        assert registered.alias is None
        return registration.appoint(
            registered, tracking_uri=self.tracking_uri, ledger=self.ledger, promotion=wanted, decided_on=decided_on
        )

    def bundle(self, model: str, family: str = "vae", seed: int = 0) -> Artifact:
        module = families.get(family)
        torch.manual_seed(seed)
        built = module.Model(module.Config.model_validate(CONFIGS[family]), SPEC)
        with self.store.writing("weights") as weights:
            built.eval().save(weights.directory)
        control = PublicControl(default=1.0, at_least=0.3, at_most=1.5)
        card = bundle.EndpointCard(model=model, controls={"truncation": control})
        return bundle.assemble(weights.artifact, card, self.store)

    def verdict(self, model: str, family: str = "vae", *, seed: int = 0, passed: bool = True) -> Verdict:
        artifact = self.bundle(model, family, seed)
        scores = Scores(
            bundle=artifact,
            encoder="sha256:e",
            held_out="sha256:h",
            samples=64,
            seeds=(0, 1),
            values={"fd": (10.0, 14.0)},
            floor={"fd": 1.5},
            pictures=Artifact(kind="pictures", digest="sha256:p"),
        )
        check = Check(gate="fd at most 60", metric="fd", value=12.0, low=10.0, high=14.0, bound=60.0, passed=passed)
        return Verdict(
            model=model,
            candidate=family,
            family=family,
            bundle=artifact,
            scores=scores,
            checks=(check,),
            rank=12.0,
            passed=passed,
        )


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty MLflow database; making one takes over a second."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", registry_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def place(tmp_path: Path, migrated: bytes) -> Place:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "mlflow.db").write_bytes(migrated)
    return Place(root, f"sqlite:///{root / 'mlflow.db'}")


@pytest.fixture
def client_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data scientist's process: MLflow is told of the registry, and alters `sys.path` with each model it loads."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def test_the_first_version_becomes_champion(place: Place) -> None:
    verdict = place.verdict("fashion")
    registered = place.register(verdict)
    assert (registered.version, registered.created, registered.alias) == ("1", True, "champion")
    assert registered.verdict == verdict.fingerprint() == place.ledger.passing("fashion", verdict.bundle.digest)
    assert display.aliases(place.tracking_uri, "fashion") == {"champion": "1"}
    version = place.client.get_model_version("fashion", "1")
    assert version.description == "A small one." and version.run_id == registered.run
    wanted = {**LINEAGE, "family": "vae", "bundle": verdict.bundle.digest, "verdict": registered.verdict}
    assert {f"atelier.{name}": value for name, value in wanted.items()}.items() <= version.tags.items()
    (output,) = place.client.get_run(registered.run).outputs.model_outputs
    shown = place.client.get_logged_model(output.model_id).tags["mlflow.modelVersions"]
    assert json.loads(shown) == [{"name": "fashion", "version": "1"}]


def test_all_tags_are_there_before_anyone_can_see_the_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for later in ("set_model_version_tag", "update_model_version"):
        monkeypatch.setattr(MlflowClient, later, lambda *_, **__: pytest.fail("a tag came after the version"))
    place.register(place.verdict("fashion"))
    assert "atelier.pointers" in place.client.get_model_version("fashion", "1").tags


def test_the_next_version_is_a_challenger_until_a_person_moves_it(place: Place) -> None:
    place.register(place.verdict("fashion"))
    second = place.register(place.verdict("fashion", seed=1))
    assert (second.version, second.alias) == ("2", "challenger")
    assert display.aliases(place.tracking_uri, "fashion") == {"champion": "1", "challenger": "2"}


def test_the_policy_auto_moves_champion_and_keeps_the_old_one_as_previous(place: Place) -> None:
    place.register(place.verdict("fashion"))
    second = place.register(place.verdict("fashion", seed=1), Promotion(policy="auto"))
    assert second.alias == "champion"
    assert display.aliases(place.tracking_uri, "fashion") == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("policy", ["manual", "auto"])
def test_nothing_is_promoted_without_the_approvals_that_are_asked_for(place: Place, policy: str) -> None:
    registered = place.register(place.verdict("fashion"), Promotion(policy=policy, approvals=1))
    assert registered.alias == "challenger"
    assert display.aliases(place.tracking_uri, "fashion") == {"challenger": "1"}
    assert "champion" not in place.ledger.current("fashion")


def test_a_version_keeps_the_approvals_that_it_was_registered_with(place: Place) -> None:
    verdict = place.verdict("fashion")
    place.register(verdict, Promotion(approvals=2))
    again = place.register(verdict, Promotion(policy="auto"))
    assert again.alias == "challenger" and "champion" not in place.ledger.current("fashion")


def test_a_champion_that_changed_since_the_gates_is_not_replaced(place: Place) -> None:
    seen = place.ledger.generation("fashion")
    place.register(place.verdict("fashion"))
    late = place.register(place.verdict("fashion", seed=1), Promotion(policy="auto"), decided_on=seen)
    assert late.alias == "challenger"
    assert display.aliases(place.tracking_uri, "fashion") == {"champion": "1", "challenger": "2"}


def test_the_same_bundle_is_registered_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = place.verdict("fashion")
    first = place.register(verdict)
    other_run = place.run("fashion")
    monkeypatch.setattr(MlflowClient, "__init__", lambda *_, **__: pytest.fail("a known version needs no MLflow"))
    monkeypatch.setattr(Place, "run", lambda *_: other_run)
    again = place.register(verdict)
    assert again == first.model_copy(update={"created": False})
    assert len(place.ledger.versions("fashion")) == 1 and len(place.ledger.history("fashion")) == 1


def test_a_registration_that_was_cut_off_is_completed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = place.verdict("fashion")
    with monkeypatch.context() as cut:
        cut.setattr(Ledger, "enter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.register(verdict)
    assert place.ledger.versions("fashion") == []
    again = place.register(verdict)
    assert (again.version, again.created, again.alias) == ("1", False, "champion")
    assert len(place.client.search_model_versions("name = 'fashion'")) == 1
    assert place.ledger.versions("fashion") == registration.versions(place.tracking_uri, "fashion")


def test_a_version_that_was_cut_off_as_it_was_entered_still_waits_for_its_approvals(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Ledger.enter

    def enter_and_die(ledger: Ledger, version: Version) -> Version:
        enter(ledger, version)
        raise KeyboardInterrupt

    verdict = place.verdict("fashion")
    monkeypatch.setattr(Ledger, "enter", enter_and_die)
    with pytest.raises(KeyboardInterrupt):
        place.register(verdict, Promotion(approvals=2))
    assert [version.version for version in place.ledger.versions("fashion")] == ["1"]
    with pytest.raises(AtelierError, match="0 of the 2 approvals"):
        place.ledger.move(
            "fashion", "champion", "1", verdict=verdict.fingerprint(), expected_generation=0, actor="ana", reason=""
        )


def test_a_verdict_that_failed_is_never_registered(place: Place) -> None:
    with pytest.raises(GateFailed, match="fd at most 60"):
        place.register(place.verdict("fashion", passed=False))
    assert place.ledger.versions() == [] and place.client.search_registered_models() == []


def test_bytes_that_changed_after_the_gates_are_refused(place: Place) -> None:
    verdict = place.verdict("fashion")
    weights = place.store.path(verdict.bundle) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AtelierError, match="changed after the gates"):
        place.register(verdict)
    assert place.client.search_registered_models() == []


def test_restore_finds_its_pointers_without_a_ledger(place: Place) -> None:
    place.register(place.verdict("fashion"))
    assert registration.pointers_of(place.tracking_uri, "fashion", "1") == POINTERS
    assert registration.pointers_of(place.tracking_uri, "fashion", "champion") == POINTERS
    with pytest.raises(AtelierError, match="unknown version '7'; known: 1"):
        registration.pointers_of(place.tracking_uri, "fashion", "7")
    with pytest.raises(AtelierError, match="holds no version of 'shoes'"):
        registration.pointers_of(place.tracking_uri, "shoes", "1")


def test_a_known_version_pays_for_no_heavy_vendor() -> None:
    script = "import components.registration, sys; print(*sorted(name.split('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "sqlalchemy" in loaded.split()
    assert not {"torch", "mlflow", "numpy", "pandas"} & set(loaded.split())


def test_a_model_ships_the_code_and_the_libraries_that_it_needs(place: Place) -> None:
    card, endpoint = bundle.read(place.store.path(place.bundle("fashion")))
    code = mlflow_model.reached(card)
    assert {"components/sampling.py", "components/families/vae.py", "components/layers.py"} <= set(code.files)
    assert "components/modalities/image/codec.py" in code.files
    assert not {"components/families/dcgan.py", "components/training.py", "components/registration.py"} & set(
        code.files
    )
    names = [line.split("==")[0] for line in mlflow_model.requirements(code)]
    assert names == ["mlflow", "numpy", "pandas", "pillow", "pydantic", "safetensors", "torch"]
    assert not any("+" in line for line in mlflow_model.requirements(code))
    signature = mlflow_model.signature(card, endpoint)
    assert signature.inputs.input_names() == ["seed", "truncation"]
    assert signature.inputs.required_input_names() == ["seed"]
    assert signature.outputs.input_names() == ["seed", "image"]


def code_of(model: mlflow.pyfunc.PyFuncModel) -> str:
    filename: str = model.unwrap_python_model().endpoint.generate.__func__.__code__.co_filename
    return filename


def test_two_versions_load_side_by_side_and_leave_our_own_code_alone(place: Place, client_of_its_own: None) -> None:
    verdicts = [place.verdict("fashion"), place.verdict("fashion", "dcgan")]
    for verdict in verdicts:
        place.register(verdict)
    ours = sys.modules["components.sampling"]
    rows = pd.DataFrame([{"seed": 7, "truncation": 0.5}, {"seed": 8, "truncation": None}])
    for number, verdict in enumerate(verdicts, 1):
        model = mlflow.pyfunc.load_model(f"models:/fashion/{number}")
        drawn = model.predict(rows)
        assert Path(code_of(model)).is_relative_to(place.root / "artifacts")
        endpoint = sampling.load(place.store.path(verdict.bundle))
        assert list(drawn["image"]) == endpoint.generate([7, 8], [{"truncation": 0.5}, {}])
        assert list(drawn["seed"]) == [7, 8]
    assert sys.modules["components.sampling"] is ours


def test_a_version_whose_bytes_were_changed_does_not_load(place: Place, client_of_its_own: None) -> None:
    place.register(place.verdict("fashion"))
    (weights,) = (place.root / "artifacts").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="does not match its digest"):
        mlflow.pyfunc.load_model("models:/fashion/1")


def test_a_model_that_edits_takes_pictures_in_a_column_of_bytes(tmp_path: Path) -> None:
    store, spec = Store(tmp_path / "store"), ImageSpec(channels=1, size=8, degrade="invert")
    with store.writing("weights") as draft:
        cyclegan = families.get("cyclegan")
        cyclegan.Model(cyclegan.Config(width=2), spec).save(draft.directory)
    ways = PublicControl(default="restore", choices=("restore", "degrade"))
    card = bundle.EndpointCard(model="restyle", controls={"direction": ways})
    made = bundle.assemble(draft.artifact, card, store)
    mlflow_model.save(store.path(made), tmp_path / "model", digest=made.digest, header=Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert model.metadata.signature.inputs.input_names() == ["seed", "image", "direction"]
    assert model.metadata.signature.inputs.required_input_names() == ["seed", "image"]
    pictures = [codec.example({"channels": 1, "size": size}) for size in (8, 20)]
    drawn = model.predict(pd.DataFrame({"seed": [1, 2], "image": pictures, "direction": ["degrade", None]}))
    endpoint = sampling.load(store.path(made))
    given = sampling.join([endpoint.read(picture) for picture in pictures])
    assert list(drawn["image"]) == endpoint.generate([1, 2], [{"direction": "degrade"}, {}], given)
    assert model.predict(model.input_example)["seed"].tolist() == [7], "its own example is answered"


def test_a_control_that_is_drawn_from_the_seed_is_a_column_that_may_lack(tmp_path: Path) -> None:
    store, infogan = Store(tmp_path / "store"), families.get("infogan")
    torch.manual_seed(0)
    with store.writing("weights") as draft:
        network = infogan.Model(infogan.Config(latent_dim=4, width=4, hidden=8), SPEC)
        for weights in network.parameters():
            weights.data *= 9  # untrained ones answer a style by less than a grey level
        network.save(draft.directory)
    style = PublicControl(default=None, at_least=-2, at_most=2)
    made = bundle.assemble(draft.artifact, bundle.EndpointCard(model="styles", controls={"style": style}), store)
    mlflow_model.save(store.path(made), tmp_path / "model", digest=made.digest, header=Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert [(column.name, column.type.name) for column in model.metadata.signature.inputs] == [
        ("seed", "long"), ("style", "double"),
    ]  # fmt: skip
    assert model.metadata.signature.inputs.required_input_names() == ["seed"]
    endpoint = sampling.load(store.path(made))
    for column in ([1.5, None], [None, None], [1.5, float("nan")]):
        drawn = model.predict(pd.DataFrame({"seed": [7, 8], "style": column}))
        asked = [{} if value is None or value != value else {"style": value} for value in column]
        assert list(drawn["image"]) == endpoint.generate([7, 8], asked)
    assert endpoint.generate([7], [{"style": 1.5}]) != endpoint.generate([7])
    assert list(model.predict(pd.DataFrame({"seed": [7]}))["image"]) == endpoint.generate([7])
    assert model.predict(model.input_example)["seed"].tolist() == [7], "its own example is answered"


STRANGER = """
import sys
root, tracking_uri = sys.argv[1:]
sys.path = [entry for entry in sys.path if not entry.startswith(root) or "site-packages" in entry]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
sys.path_hooks = [hook for hook in sys.path_hooks if "__editable__" not in getattr(hook, "__module__", "")]
try:
    import components
    sys.exit(f"the project can be imported from {components.__file__}: this proves nothing")
except ImportError:
    pass
import mlflow, pandas as pd
mlflow.set_tracking_uri(tracking_uri)
model = mlflow.pyfunc.load_model("models:/fashion@champion")
drawn = model.predict(pd.DataFrame([{"seed": 7, "truncation": 1.0}]))
print(model.unwrap_python_model().endpoint.generate.__func__.__code__.co_filename)
print(drawn["seed"][0], drawn["image"][0].hex())
"""


def test_a_client_without_the_project_loads_the_champion_without_pickle(place: Place, tmp_path: Path) -> None:
    verdict = place.verdict("fashion")
    place.register(verdict)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, str(ROOT), place.tracking_uri],
        cwd=elsewhere,
        env={**environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ran, answer = done.stdout.splitlines()
    assert Path(ran).is_relative_to(place.root / "artifacts") and "/code/components/sampling.py" in ran
    seed, picture = answer.split()
    assert seed == "7" and Image.open(io.BytesIO(bytes.fromhex(picture))).size == (8, 8)
    assert [bytes.fromhex(picture)] == sampling.load(place.store.path(verdict.bundle)).generate([7])
    assert list(elsewhere.iterdir()) == []
    assert not [path for path in (place.root / "artifacts").rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]
