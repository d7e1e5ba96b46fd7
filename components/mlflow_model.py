"""A bundle as a whole MLflow model: its bytes, the code that runs them, a signature, an example, pinned libraries."""

import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from components import modalities
from components.bundle import EndpointCard, ModelCard, read
from components.closure import ROOT, Closure, closure

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

RUNS = Path(__file__).with_name("pyfunc_model.py")
COLUMNS = {bool: "boolean", int: "long", float: "double", str: "string"}  # MLflow's name of a control's type


def save(bundle: Path, target: Path, *, digest: str, header: "Model") -> None:
    """Write the model of a bundle to a new folder; `header` is MLflow's own record of it, with its id and run."""
    import pandas as pd
    from mlflow import pyfunc

    card, endpoint = read(bundle)
    code = reached(card)
    with TemporaryDirectory() as aside:
        _copy(code, Path(aside))
        pyfunc.save_model(
            target,
            python_model=RUNS,
            artifacts={"bundle": str(bundle)},
            code_paths=[str(Path(aside) / "components")],
            model_config={"bundle": digest},
            signature=signature(card, endpoint),
            input_example=pd.DataFrame([_example(card, endpoint)]),
            pip_requirements=requirements(code),
            mlflow_model=header,
        )


def reached(card: ModelCard) -> Closure:
    """The code that sampling from such a bundle runs: the door of serving, and what that loads by name."""
    modality = f"components.modalities.{card.modality}"
    loaded = (f"components.families.{card.family}", f"{modality}.batch", f"{modality}.codec")
    return closure(["components.sampling", *loaded])


def signature(card: ModelCard, endpoint: EndpointCard) -> "ModelSignature":
    """A seed and the public controls in; the seed and the encoded sample, in a column named by its modality, out.

    A model that edits takes what each sample is made from as well, encoded, in a column of the same name.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    given = [ColSpec("binary", card.modality)] if card.edits else []
    asked = [ColSpec(COLUMNS[item.kind], name, required=False) for name, item in endpoint.controls.items()]
    answered = [ColSpec("long", "seed"), ColSpec("binary", card.modality)]
    return ModelSignature(inputs=Schema([ColSpec("long", "seed"), *given, *asked]), outputs=Schema(answered))


def _example(card: ModelCard, endpoint: EndpointCard) -> dict[str, Any]:
    """A row that the model answers; what is drawn from the seed is left to it."""
    defaults = {name: item.default for name, item in endpoint.controls.items() if item.default is not None}
    codec = modalities.part(card.modality, "codec")
    return {"seed": 7, **({card.modality: codec.example(card.spec)} if card.edits else {}), **defaults}


def requirements(code: Closure) -> list[str]:
    """The libraries that the code needs and MLflow's own, as installed here; `+cpu` and the like are left out, since
    no index but the local one has them."""
    pinned = {**code.versions(), **{name: version(name) for name in ("mlflow", "pandas")}}
    return [f"{name}=={installed.partition('+')[0]}" for name, installed in sorted(pinned.items())]


def _copy(code: Closure, target: Path) -> None:
    for name in code.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
