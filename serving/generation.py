"""From a checked request to its samples: which version answers, its place in the queue, its trace."""

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from pydantic import BeforeValidator

from components import provenance
from components.errors import AtelierError
from serving import errors, moderation
from serving.batching import Busy, Job
from serving.errors import Gone, Refusal
from serving.keys import Caller
from serving.observations import Seen
from serving.parts import Parts
from serving.residents import Resident

if TYPE_CHECKING:  # torch comes with it
    from components.sampling import Batch, Endpoint

LAST_SEED = 2**53 - 1  # JSON's numbers are exact up to here in every language
MOST_SAMPLES = 4096  # of one request, whatever a model's card allows
LOADING_SECONDS = 60.0
READERS = ThreadPoolExecutor(2, "given")  # so many pictures are unpacked at once, of up to some 200 MB each
UNREAD = threading.BoundedSemaphore(16)  # and so many wait or are at it: a large one takes a second


def _whole(given: object) -> object:
    return int(given) if isinstance(given, float) and given.is_integer() else given


WHOLE = BeforeValidator(_whole)  # JSON tells 2.0 and 2 apart no more than JSON Schema does


@dataclass(frozen=True, slots=True)
class Samples:
    """What was made for one request: a sample per seed, in order, and the manifests of those that carry none inside."""

    id: str
    resident: Resident
    seeds: Sequence[int]
    samples: Sequence[bytes]
    manifests: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    def headers(self) -> dict[str, str]:
        """Where the samples come from, as every answer says it."""
        return {
            "X-Request-Id": self.id,
            "X-Model": self.resident.model,
            "X-Model-Version": self.resident.version,
            "X-Model-Digest": self.resident.served.digest,
            "X-Seed": ",".join(map(str, self.seeds)),
        }


@dataclass(frozen=True, slots=True)
class Given:
    """A row to make samples from, the digest of its content as a manifest names it, and what a network sees in it."""

    row: "Batch"
    digest: str
    shows: Sequence[str] = ()  # of what the recipe's moderation names


def parts_of(request: Request) -> Parts:
    """What the service has put together."""
    parts: Parts = request.app.state.parts
    return parts


async def find(request: Request, named: str) -> Resident:
    """The version that `MODEL`, `MODEL@ALIAS` or `MODEL@VERSION` names, in memory; a `Refusal` where there is none."""
    parts = parts_of(request)
    view = parts.residents.view
    name, _, wanted = named.partition("@")
    caller: Caller = request.state.caller
    if not caller.may(name):  # before whether there is one, which is told to those alone whom it is for
        meant = ", ".join(caller.models) or "no model"
        raise Refusal(
            f"this API key is for {meant}, and not for {_brief(name)}",
            status=403, param="model", code="model_forbidden",
        )  # fmt: skip
    model = view.release.models.get(name)
    if model is None:
        known = ", ".join(sorted(filter(caller.may, view.release.models))) or "none yet"
        raise _no_model(f"there is no model {_brief(name)}; known: {known}")
    champion = view.champions.get(name)
    if wanted in ("", "champion"):
        if champion is None:
            raise _no_champion(name, view.troubles.get(name), [*model.aliases, *model.versions])
        return champion
    version = model.aliases.get(wanted, wanted)
    if champion is not None and champion.version == version:
        return champion
    if version not in model.versions:
        offered = ", ".join([*model.aliases, *model.versions])
        raise _no_model(
            f"{name} has no version {_brief(wanted)} with a verdict that passed; those that may be asked for: {offered}"
        )
    return await _fetched(parts, name, version)


async def _fetched(parts: Parts, name: str, version: str) -> Resident:
    try:
        coming = asyncio.wrap_future(parts.residents.fetch(name, version))
    except KeyError:  # of the release that came in between
        raise _no_model(f"{name} has no version {version} any more") from None
    except Busy as busy:
        raise Refusal(
            f"{name}@{version} is not in memory, and more versions wait to be loaded than this server takes; ask again",
            status=503, code="model_loading", retry_after=busy.seconds,
        ) from None  # fmt: skip
    try:
        return await asyncio.wait_for(asyncio.shield(coming), LOADING_SECONDS)
    except asyncio.CancelledError:
        if not coming.cancelled():  # it is who asked that gave up
            raise
        raise _stopping() from None
    except TimeoutError:
        raise Refusal(f"{name}@{version} is being loaded", status=503, code="model_loading", retry_after=5) from None
    except Exception as error:  # noqa: BLE001 - whatever a store or its bytes may raise
        raise Refusal(
            f"{name}@{version} cannot be loaded: {error}", status=503, code="model_not_loaded", retry_after=10
        ) from None


def _stopping() -> Refusal:
    return Refusal("the server is stopping; ask again", status=503, code="stopping", retry_after=1)


def _no_model(message: str) -> Refusal:
    return Refusal(message, status=404, param="model", code="model_not_found")


def _no_champion(name: str, trouble: str | None, others: Sequence[str]) -> Refusal:
    if trouble is not None:
        return Refusal(f"{name} cannot answer: {trouble}", status=503, code="model_not_loaded", retry_after=10)
    offered = ", ".join(f"{name}@{other}" for other in others) or "none of its versions"
    return _no_model(f"{name} has no champion that may be served; what may be asked for: {offered}")


def seeds_of(resident: Resident, *, seed: int | None, seeds: Sequence[int] | None, n: int | None) -> list[int]:
    """One seed per sample: those named, or `seed` and the ones after it, or new ones."""
    if seed is not None and seeds is not None:
        raise Refusal("seed and seeds are both given; send one of them", param="seeds")
    count = n or len(seeds or [0])
    if seeds is not None and count != len(seeds):
        raise Refusal(f"n is {count} but seeds has {len(seeds)}; leave n out, or make them agree", param="n")
    most = resident.endpoint.card.max_samples
    if count > most:
        place = "n" if n else "seeds"
        raise Refusal(
            f"{count} samples are asked for; {resident.model} makes between 1 and {most} at once", param=place
        )
    if seeds is not None:
        return list(seeds)
    if seed is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    if seed + count - 1 > LAST_SEED:
        raise Refusal(f"seed {seed} and the {count - 1} after it pass {LAST_SEED}, the last seed", param="seed")
    return list(range(seed, seed + count))


def controls_of(resident: Resident, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The public controls, complete and in range."""
    try:
        return resident.endpoint.checked(asked)
    except AtelierError as error:
        raise Refusal(str(error), param="controls") from None


async def read(resident: Resident, payloads: Sequence[bytes], *, param: str = "image") -> list[Given]:
    """What an editing model is to make samples from, read aside from the event loop; nothing for any other model.

    A `Refusal` where a model that edits is given nothing, one that does not is given something, or it is unreadable.
    """
    endpoint = resident.endpoint
    if endpoint.edits and not payloads:
        raise Refusal(
            f"{resident.model} changes pictures that it is given: send one as `image` to /v1/images/edits (a form with "
            "a file), or to /v1/generate (JSON with base64)",
            param=param, code="image_required",
        )  # fmt: skip
    if payloads and not endpoint.edits:
        raise Refusal(
            f"{resident.model} makes its samples from seeds alone and takes no {param}; leave it out", param=param
        )
    try:
        return [await _read_one(endpoint, payload) for payload in payloads]
    except ValueError as error:
        raise Refusal(str(error), param=param, code="invalid_image") from None


async def _read_one(endpoint: "Endpoint", payload: bytes) -> Given:
    if not UNREAD.acquire(blocking=False):
        raise Refusal(
            "more pictures wait to be read than this server reads at once; ask again in a second",
            status=429, code="queue_full", retry_after=1,
        )  # fmt: skip
    try:
        return await asyncio.get_running_loop().run_in_executor(READERS, _given, endpoint, payload)
    finally:
        UNREAD.release()


def _given(endpoint: "Endpoint", payload: bytes) -> Given:
    row = endpoint.read(payload)
    (shown,) = endpoint.encode(row)
    return Given(row, provenance.content(shown, endpoint.modality), endpoint.shown(row)[0])


def _joined(given: Sequence[Given]) -> "Batch | None":
    from components.sampling import join

    return join([one.row for one in given]) if given else None


async def once(request: Request, make: Callable[[], Awaitable[Response]]) -> Response:
    """What `make` answers, made once where the request carries an `Idempotency-Key`; a retry has the same body."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return await make()
    caller: Caller = request.state.caller  # another key of the team may be for other models
    where = f"{request.url.path} {request.headers.get('accept', '')} {','.join(caller.models)} "
    digest = hashlib.sha256(where.encode() + await request.body()).digest()
    return await parts_of(request).replies.once(caller.team, key, digest, make)


async def generate(
    request: Request,
    resident: Resident,
    seeds: Sequence[int],
    controls: Mapping[str, Any],
    given: Sequence[Given] = (),
) -> Samples:
    """The samples, each with its trace. Work that nobody waits for any more is dropped: `Gone`.

    `given` holds what each sample is made from, where the model edits.
    """
    moderation.check_asked(request, resident, controls)
    moderation.check_given(request, resident, [one.shows for one in given])
    parts = parts_of(request)
    manifests: dict[int, dict[str, Any]] = {}
    traced: dict[str, Any] = {"model": resident.model, "version": resident.version, "digest": resident.served.digest}

    def finish(index: int, sample: bytes) -> bytes:
        trace = {**traced, "seed": seeds[index], "controls": dict(controls), **resident.served.trace}
        if given:
            trace["given"] = given[index].digest
        marked, manifest = provenance.attach(sample, trace, modality=resident.endpoint.modality, signer=parts.signer)
        if marked == sample:  # its format cannot carry it
            manifests[index] = manifest
        return marked

    patience = resident.endpoint.card.latency_ms / 1000
    try:
        name = (resident.model, resident.version)
        job = parts.batcher.submit(
            name, resident.endpoint, seeds, controls, finish=finish, patience=patience, given=_joined(given)
        )
    except Busy as busy:
        raise Refusal(
            f"{resident.model} is asked for more than it can make now; ask again in {busy.seconds:.0f} s"
            if busy.seconds >= 1.5
            else f"{resident.model} is asked for more than it can make now; ask again in a second",
            status=429, code="queue_full", retry_after=busy.seconds,
        ) from None  # fmt: skip
    request.state.note.update(traced | {"seeds": tuple(seeds), "controls": controls, "chosen": chosen(resident)})
    request.state.seen = Seen(resident.endpoint)
    samples = await _made(request, parts, job)
    request.state.seen.sample = samples[seeds[0] % len(samples)]
    if resident.endpoint.media_type.startswith("text/"):
        moderation.check_answer(request, resident, [sample.decode() for sample in samples])
    if resident.endpoint.inspects:
        shown = await asyncio.to_thread(resident.endpoint.shown_by, samples)
        moderation.check_made(request, resident, shown)
    request.state.note["queued"] = job.begun - job.asked
    return Samples(errors.request_id(request), resident, seeds, samples, manifests)


def chosen(resident: Resident) -> tuple[str, ...]:
    """The controls of a model whose values are none but its recipe's own."""
    return tuple(name for name, control in resident.endpoint.card.controls.items() if control.choices is not None)


async def _made(request: Request, parts: Parts, job: Job) -> list[bytes]:
    done = asyncio.wrap_future(job.done)
    left = asyncio.ensure_future(request.receive())
    watched: set[asyncio.Future[Any]] = (
        {done} if "idempotency-key" in request.headers else {done, left}
    )  # a retry will come for that one
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        if not done.done():
            parts.batcher.cancel(job)
            request.state.note.clear()
    if done.cancelled():
        raise _stopping()
    if not done.done():
        raise Gone
    return done.result()


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
