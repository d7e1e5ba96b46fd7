"""A registered version as MLflow runs it: rows of seeds and public controls in, encoded samples out.

MLflow copies this file into the version and runs it from there ("models from code"), so that nothing is pickled. What
it imports of this project comes from the version's own `code/`, never from an installation that happens to be there,
and versions with different code load side by side in one process.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class RegisteredModel(PythonModel):  # type: ignore[misc]  # a vendor's class without types
    """`predict` takes a frame of `seed` and of any public controls; a control left out, or null, has its default.

    A model that edits takes what each sample is made from too, in a column named by its modality: an `image` is bytes
    of PNG, JPEG or WebP.

    It returns a frame of `seed` and one more column, named by the modality: bytes in the modality's media type. The
    same seed and controls give the same bytes. A control out of range raises a `ValueError` that names the range.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle; an error where its bytes are not those that passed the gates."""
        bundle = Path(context.artifacts["bundle"])
        with _only_code_of(bundle.parents[1] / "code"):
            sampling = importlib.import_module("components.sampling")
            self.endpoint = sampling.load(bundle, digest=context.model_config["bundle"])
            self.join = sampling.join

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        seeds = [int(seed) for seed in model_input["seed"]]
        modality, rows = self.endpoint.modality, model_input.drop(columns="seed")
        given = None
        if self.endpoint.edits:
            given = self.join([self.endpoint.read(payload) for payload in rows.pop(modality)])
        asked = [
            {str(name): value for name, value in row.items() if not pd.isna(value)} for row in rows.to_dict("records")
        ]
        return pd.DataFrame({"seed": seeds, modality: self.endpoint.generate(seeds, asked, given)})


@contextmanager
def _only_code_of(code: Path) -> Iterator[None]:
    """Import `components` from that folder, and leave what the process knew under this name as it was."""
    known = _taken_out()
    sys.path.insert(0, str(code))
    try:
        yield
    finally:
        sys.path.remove(str(code))
        _taken_out()
        sys.modules.update(known)


def _taken_out() -> dict[str, Any]:
    names = [name for name in sys.modules if name.split(".")[0] == "components"]
    return {name: sys.modules.pop(name) for name in names}


set_model(RegisteredModel())
