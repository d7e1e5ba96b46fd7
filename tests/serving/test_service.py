"""What serving pulls in: none of the platform's vendors, and torch only where a model is loaded."""

import json
import subprocess
import sys

from components import families
from components.bundle import EndpointCard, assemble
from components.modalities.audio.batch import AudioSpec
from components.modalities.image.batch import ImageSpec
from components.modalities.text.batch import TextSpec
from components.modalities.text.tokenizers import ByteTokens
from components.store import Store

PROGRAM = """
import json, sys
from pathlib import Path
import serving.service
before = sorted(sys.modules)
from components import sampling
extra, *bundles = sys.argv[1:]
for bundle in bundles:
    endpoint = sampling.load(Path(bundle))
    endpoint.generate([0], given=endpoint.example())
if extra:
    __import__(extra)
print(json.dumps([before, sorted(sys.modules)]))
"""
VENDORS = {"prefect", "mlflow", "dvc", "great_expectations", "accelerate", "pandas", "pyarrow", "sqlalchemy"}


def imported(tmp_path, names, extra=""):
    """The modules after the service is imported, and after a bundle of each family has drawn."""
    store, bundles = Store(tmp_path), []
    for name in names:
        module = families.get(name)
        with store.writing("weights") as draft:
            degrade = "invert" if module.Model.edits else None
            spec = {
                "image": ImageSpec(channels=1, size=8, classes=("a", "b"), degrade=degrade),
                "text": TextSpec(tokenizer=ByteTokens(), context=16),
                "audio": AudioSpec(rate=8000, length=160),
            }[module.Model.modality]
            module.Model(module.Config(), spec).save(draft.directory)
        bundles.append(store.path(assemble(draft.artifact, EndpointCard(model="fashion"), store)))
    command = [sys.executable, "-c", PROGRAM, extra, *bundles]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [set(modules) for modules in json.loads(done.stdout.splitlines()[-1])]


def test_loading_and_sampling_every_family_imports_no_vendor_of_the_platform(tmp_path):
    before, after = imported(tmp_path, families.names())
    assert not after & VENDORS
    assert "torch" in after
    assert "torch" not in before, "the process that starts the server must not pay for torch"


def test_the_check_sees_a_vendor(tmp_path):
    assert imported(tmp_path, [], extra="dvc")[1] & VENDORS == {"dvc"}


PROGRAM_OF_LAYERS = """
from serving.service import Generator
layer, seen = Generator.to_asgi(is_main=True).build_middleware_stack(), []
while layer is not None:
    seen.append(type(layer).__name__)
    layer = getattr(layer, "app", None)
print(" ".join(seen))
"""


def test_no_timer_of_bentomls_outlives_a_request():
    done = subprocess.run([sys.executable, "-c", PROGRAM_OF_LAYERS], capture_output=True, text=True, check=True)
    layers = done.stdout.split()
    assert "ContextMiddleware" in layers
    assert "TimeoutMiddleware" not in layers
