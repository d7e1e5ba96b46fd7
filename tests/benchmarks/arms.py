"""The servers that serving is compared with, and what it is built up from: `python -m tests.benchmarks.arms ARM PORT`.

Each answers `POST /v1/generate` with a PNG of the bundle in `BENCH_BUNDLE`, through `Endpoint.generate`.

    null          a protocol of uvloop that answers bytes: what the client itself can do
    uvicorn       uvicorn, uvloop and httptools under an ASGI function that reads the body and answers bytes
    fastapi       the same under FastAPI, the body checked by pydantic
    handwritten   FastAPI and one thread for the model: what an engineer would write by hand
    litserve      LitServe, and `litserve-batched` with its batching
    application   our routes, door, queue and trace under uvicorn, without BentoML; keys, journal, observations and
                  signatures where the environment of the service names them

`bare SECONDS` times the function itself, and `calibrate MICROSECONDS` tells how many products take so long.

The rest is `bentoml serve` of `tests.benchmarks.services`.
"""

import asyncio
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from components import contract, families

if TYPE_CHECKING:
    from components.sampling import Endpoint

PATH = "/v1/generate"
families.__path__.append(str(Path(__file__).with_name("models")))
contract.Family.rows = int(os.environ.get("BENCH_FAMILY_ROWS", contract.Family.rows))  # 1: nothing to share


class Asked(BaseModel):
    model: str
    seed: int
    controls: dict[str, float] = {}


@cache
def endpoint() -> "Endpoint":
    """The bundle in memory, with the number of threads that our own service gives it."""
    from components import sampling
    from serving.batching import _settle

    _settle()
    return sampling.load(Path(os.environ["BENCH_BUNDLE"]))


def null(port: int) -> None:
    import uvloop

    body = endpoint().generate([0], [{}])[0]
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    class Null(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def plain(port: int) -> None:
    sample = endpoint().generate([0], [{}])[0]
    length = str(len(sample)).encode()
    start = {
        "type": "http.response.start", "status": 200,
        "headers": [(b"content-type", b"image/png"), (b"content-length", length)],
    }  # fmt: skip

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send({"type": "http.response.body", "body": sample})

    _run(app, port, lifespan="off")


def fastapi(port: int) -> None:
    app, sample = FastAPI(), endpoint().generate([0], [{}])[0]

    @app.post(PATH)
    async def generate(asked: Asked) -> Response:
        return Response(sample, media_type="image/png")

    _run(app, port)


def by_hand() -> FastAPI:
    """The hand-written application."""
    app, models = FastAPI(), ThreadPoolExecutor(1)

    @app.post(PATH)
    async def generate(asked: Asked) -> Response:
        loop = asyncio.get_running_loop()
        (sample,) = await loop.run_in_executor(models, endpoint().generate, [asked.seed], [asked.controls])
        return Response(sample, media_type="image/png")

    @app.get("/readyz")
    async def ready() -> Response:
        await asyncio.get_running_loop().run_in_executor(models, endpoint().generate, [0], [{}])
        return Response()

    return app


def litserve(port: int, *, batched: bool = False) -> None:
    from tests.benchmarks import lit

    lit.run(port, batched=batched)


def application(port: int) -> None:
    from components.provenance import Signer
    from serving import connections, release, routes
    from serving.batching import Batcher
    from serving.journal import Journal
    from serving.keys import Keys
    from serving.metrics import Metrics
    from serving.observations import Observations
    from serving.parts import Parts
    from serving.replies import Replies
    from serving.residents import Residents
    from serving.settings import Settings

    connections.bound()
    settings, metrics = Settings.of_environment(), Metrics()
    batcher = Batcher(observe=metrics.batch)
    residents = Residents(batcher, lambda served: Path(os.environ["BENCH_BUNDLE"]), loaded=metrics.installed)
    residents.install(release.read(settings.release), strict=True)
    signer = Signer.read(settings.signing_key) if settings.signing_key else None
    app = routes.application()
    app.state.parts = Parts(
        residents, batcher, Keys(settings.keys), Journal(settings.journal), metrics, Replies(), signer,
        observations=Observations(settings.observations),
    )  # fmt: skip
    _run(app, port, http="auto")


def bare(seconds: int) -> None:
    """Print the median milliseconds of one full pass."""
    loaded, took, until = endpoint(), [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 20:
        begun = time.perf_counter()
        loaded.generate(range(loaded.rows), [{}] * loaded.rows)
        took.append((time.perf_counter() - begun) * 1e3)
    print(statistics.median(took))


def calibrate(microseconds: int) -> None:
    """Print how many products take that long."""
    import torch

    from serving.batching import _settle
    from tests.benchmarks.models.products import SIDE

    _settle()
    factor, product, took = torch.full((SIDE, SIDE), 1 / SIDE), torch.empty(SIDE, SIDE), []
    for _ in range(200):
        begun = time.process_time()
        for _ in range(20):
            torch.mm(factor, factor, out=product)
        took.append((time.process_time() - begun) / 20 / torch.get_num_threads())
    print(round(microseconds / 1e6 / sorted(took)[len(took) // 4]))  # CPU time, whatever the neighbours do


def _run(app: Any, port: int, **options: Any) -> None:
    settings = {"loop": "uvloop", "http": "httptools", "access_log": False, "server_header": False} | options
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", **settings)


ARMS = {
    "null": null,
    "uvicorn": plain,
    "fastapi": fastapi,
    "handwritten": lambda port: _run(by_hand(), port),
    "litserve": litserve,
    "litserve-batched": lambda port: litserve(port, batched=True),
    "application": application,
    "bare": bare,
    "calibrate": calibrate,
}

if __name__ == "__main__":
    ARMS[sys.argv[1]](int(sys.argv[2]))
