"""The BentoML service: loads the bundles of the release beside it, and answers by `routes.py`.

BentoML imports this file twice, in the process that starts the server and in the one that answers; only the second
makes an instance, so torch is imported there alone.
"""

import time
from functools import partial
from pathlib import Path

import bentoml

from serving import release, routes
from serving.release import Served
from serving.worker import Worker

RELEASE = Path(__file__).resolve().parents[1] / "release.json"

app = routes.application()


@bentoml.service(
    workers=1,  # one process owns the models; a container is the unit that is multiplied
    traffic={"timeout": 60},
    envs=[{"name": "OMP_WAIT_POLICY", "value": "passive"}],  # spinning threads starve the event loop
)
@bentoml.asgi_app(app)
class Generator:
    """Generative models of one release, under /v1."""

    def __init__(self) -> None:
        self.worker = Worker()
        models = release.read(RELEASE).models
        app.state.worker = self.worker
        app.state.models = {
            name: self.worker.submit(partial(_load, served)).result() for name, served in models.items()
        }

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        self.worker.close()


def _load(served: Served) -> routes.Loaded:
    """The model, its bytes checked against the release, and warm: a first sample is drawn before anyone waits."""
    from components import sampling

    directory = Path(bentoml.models.get(served.bento_model).path) / "bundle"
    endpoint = sampling.load(directory, digest=served.digest)
    endpoint.generate([0])
    return routes.Loaded(served, endpoint, since=int(time.time()))
