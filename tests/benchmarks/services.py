"""What `bentoml serve` is given: the product's own service, which finds the benchmark's family too, and one to compare.

`Generator` is the product's, untouched. `ByHand` is the hand-written application under the same decorator.
"""

import bentoml

from serving.service import Generator
from tests.benchmarks import arms

__all__ = ["ByHand", "Generator"]


@bentoml.service(
    workers=1,
    traffic={"timeout": 600},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    envs=[{"name": "OMP_WAIT_POLICY", "value": "passive"}],
)
@bentoml.asgi_app(arms.by_hand())
class ByHand:
    """The hand-written application inside BentoML's server."""
