"""The same bundle under LitServe, alone and with its batching; its worker is a process that imports this file."""

import os

import litserve
from fastapi import Response

from tests.benchmarks.arms import PATH, Asked, endpoint

BATCH_SECONDS = 0.005  # it gathers for so long; with 0 its worker never sleeps, and starves what shares its core


class Single(litserve.LitAPI):
    """One request a pass."""

    def setup(self, device: str) -> None:
        endpoint().generate([0], [{}])

    def decode_request(self, request: Asked) -> Asked:
        return request

    def predict(self, x: Asked) -> bytes:
        return endpoint().generate([x.seed], [x.controls])[0]

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


class Batched(Single):
    """As many requests a pass as share one."""

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        return inputs

    def predict(self, x: list[Asked]) -> list[bytes]:
        return endpoint().generate([asked.seed for asked in x], [asked.controls for asked in x])

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output


def run(port: int, *, batched: bool) -> None:
    """Serve until the process is ended."""
    if batched:
        api: Single = Batched(max_batch_size=endpoint().rows, batch_timeout=BATCH_SECONDS, api_path=PATH)
    else:
        api = Single(api_path=PATH)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, timeout=False, healthcheck_path="/readyz",
        fast_queue=os.environ.get("BENCH_FAST_QUEUE") == "1",
    )  # fmt: skip
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, access_log=False)
