"""A shop of real tiny models for the tests of serving: bundles, a release that names them, the parts, the app."""

import io
from pathlib import Path

from components import families
from components.bundle import EndpointCard, assemble
from components.modalities.image.batch import ImageSpec
from components.store import Store
from serving import routes
from serving.batching import Batcher
from serving.journal import Journal
from serving.keys import Keys
from serving.metrics import Metrics
from serving.observations import Observations
from serving.parts import Parts
from serving.release import Release, Served
from serving.replies import Replies
from serving.residents import Residents

CONTROLS = {"truncation": {"default": 1.0, "at_least": 0.3, "at_most": 1.5}}
DIRECTION = {"direction": {"default": "restore", "choices": ["restore", "degrade"]}}
TRACE = {"data": "md5:abc", "run": "r1", "recipe": "sha256:r", "commit": "c0ffee", "verdict": "sha256:v"}


class Shop:
    """Bundles under a folder; `served` makes one with weights of its own, `release` names versions of models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")
        self.number = 0

    def served(self, *, model="fashion", latent_dim=8, family="vae", gain=1.0, **card) -> Served:
        module = families.get(family)
        with self.store.writing("weights") as draft:
            edits = module.Model.edits
            sizes = {"width": 2} if edits else {"latent_dim": latent_dim, "width": 4}
            spec = ImageSpec(channels=1, size=28, degrade="invert" if edits else None)
            network = module.Model(module.Config(**sizes, **({"hidden": 8} if family == "vae" else {})), spec)
            for weights in network.parameters():
                weights.data *= gain  # untrained ones of small spread draw the same whatever is asked for
            network.save(draft.directory)
        controls = DIRECTION if edits else CONTROLS
        card = EndpointCard.model_validate({"model": model, "controls": controls, "max_samples": 4, **card})
        bundle = assemble(draft.artifact, card, self.store, project=self.root)
        return Served(digest=bundle.digest, bento_model=f"{model}:x", trace=TRACE)

    def place(self, served: Served) -> Path:
        return self.store.root / "bundle" / served.digest.removeprefix("sha256:")

    def release(self, **models: dict) -> Release:
        """`fashion={"champion": "1", "versions": {...}}`, with the next number."""
        self.number += 1
        return Release.model_validate({"schema": 2, "number": self.number, "models": models})

    def write(self, path: Path, release: Release) -> Path:
        aside = path.with_suffix(".aside")
        aside.write_text(release.model_dump_json(by_alias=True))
        aside.replace(path)
        return path

    def parts(
        self, release: Release, *, keys=None, journal=None, signer=None, places=512, standing=None, observed=None
    ) -> Parts:
        metrics = Metrics()
        batcher = Batcher(places=places, observe=metrics.batch)
        residents = Residents(batcher, self.place, loaded=metrics.installed)
        residents.install(release)
        journal = Journal(journal, log=io.StringIO())
        return Parts(
            residents, batcher, Keys(keys), journal, metrics, Replies(), signer, standing,
            observations=Observations(observed),
        )  # fmt: skip


def application(parts: Parts):
    app = routes.application()
    app.state.parts = parts
    return app


def close(parts: Parts) -> None:
    parts.residents.close()
    parts.batcher.close()
    parts.journal.close()
    parts.observations.close()
