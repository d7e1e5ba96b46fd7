"""What serving costs beside a hand-written server and LitServe, and what it takes to move, start and hold models.

Servers run on all cores but the last and the client on the last. Arms take turns: in each round every arm is asked once
while the others are stopped (SIGSTOP), and ratios are of one round. Each has a session of its own, as BentoML's worker
has anyway: where Linux shares a core out by sessions, neighbours would slow them unequally otherwise.
`ATELIER_BENCH_SECONDS=1` is the short form; the whole takes about half an hour.
"""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from components import families, provenance
from components.bundle import EndpointCard, assemble
from components.closure import ROOT
from components.modalities.image.batch import ImageSpec
from components.store import Store
from serving.release import Release, Served
from tests.benchmarks import arms
from tests.benchmarks.load import Plan

SECONDS = float(os.environ.get("ATELIER_BENCH_SECONDS", "10"))  # of the longest measurements
BRIEF = min(SECONDS, 4)
ROUNDS = 5 if SECONDS >= 5 else 2
CORES = sorted(os.sched_getaffinity(0))
SERVER, CLIENT = set(CORES[:-1]), set(CORES[-1:])
PASS_SECONDS = 0.020  # of the slow model
FEW = 300  # requests of one turn of an open loop, where 20 s allow it
SHARES = (0.3, 0.6, 0.8)  # of the ceiling, in an open loop
TRACE = dict.fromkeys(("data", "run", "recipe", "commit", "verdict"), f"sha256:{'0' * 64}")
KEEP = """
import json, shutil, sys, bentoml
for tag, bundle in json.load(sys.stdin):
    with bentoml.models.create(tag) as model:
        shutil.copytree(bundle, model.path_of("bundle"))
"""
PRODUCT, WATCHED = "tests.benchmarks.services:Generator", "serving.service:Generator"


def main() -> None:
    """Overhead at most 5 ms, 3 the goal; ceiling 0.9 of a hand-written server; batching 3 times; moves without a fault.

    Overhead and where it goes, ceilings, latencies in an open loop, batching, a champion moved, starts, memory.
    """
    print(f"servers on cores {sorted(SERVER)}, client on {sorted(CLIENT)}; load average {os.getloadavg()[0]:.2f}")
    os.sched_setaffinity(0, CLIENT)
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        for figure in (_overhead, _ceilings, _batching, _moves, _starts, _memory):
            figure(shop)
            print(f"  load average {os.getloadavg()[0]:.2f}", flush=True)


@dataclass(frozen=True)
class Version:
    """A version in the shop: its model's name, what a release says of it, and its bundle's folder."""

    model: str
    served: Served
    bundle: Path


class Shop:
    """Bundles, the Bento store that holds them, keys and a signing key, all under one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self._store = root, Store(root / "store")
        self._number = 0
        self.key = f"atl_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        known = {
            "id": self.key[4:12], "team": "bench", "sha256": hashlib.sha256(self.key.encode()).hexdigest(),
            "models": ["*"], "created": "2026-01-01T00:00:00Z", "revoked": None,
        }  # fmt: skip
        (root / "keys.json").write_text(json.dumps({"schema": 1, "keys": [known]}))
        (root / "signing.pem").write_bytes(provenance.new_key())
        self.environment = {
            **os.environ, "BENTOML_HOME": str(root / "bentoml"), "BENTOML_DO_NOT_TRACK": "True",
            "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.keys = {"ATELIER_KEYS": str(root / "keys.json")}
        self.journal = {"ATELIER_JOURNAL": str(root / "journal.db")}
        self.observations = {"ATELIER_OBSERVATIONS": str(root / "observations")}
        self.signing = {"ATELIER_SIGNING_KEY": str(root / "signing.pem")}

    def versions(self, model: str, family: str, count: int = 1, **config: Any) -> list[Version]:
        """Versions of a model with weights of their own, in the Bento store."""
        module, made = families.get(family), []
        for _ in range(count):
            with self._store.writing("weights") as draft:
                module.Model(module.Config(**config), ImageSpec(channels=1, size=28)).save(draft.directory)
            # whoever measures a queue must not be refused by it
            bundle = assemble(draft.artifact, EndpointCard(model=model, latency_ms=600_000), self._store)
            tag = f"{model}:{bundle.digest[7:39]}"
            made.append(
                Version(model, Served(digest=bundle.digest, bento_model=tag, trace=TRACE), self._store.path(bundle))
            )
        self.keep([(version.served.bento_model, version.bundle) for version in made])
        return made

    def keep(self, bundles: Sequence[tuple[str, Path]]) -> None:
        """Put bundles into the Bento store, each under its tag."""
        tags = json.dumps([(tag, str(bundle)) for tag, bundle in bundles])
        subprocess.run([sys.executable, "-c", KEEP], input=tags.encode(), env=self.environment, check=True)

    def release(self, name: str, *versions: Version, champion: int = 1, previous: int | None = None) -> Path:
        """A release record with that champion of each model, written in place of the one before."""
        self._number += 1
        models: dict[str, Any] = {}
        for version in versions:
            named = models.setdefault(version.model, {"champion": str(champion), "versions": {}})
            named["versions"][str(len(named["versions"]) + 1)] = version.served
            named["previous"] = previous and str(previous)
        path, aside = self.root / f"{name}.json", self.root / f"{name}.aside"
        aside.write_text(Release(number=self._number, models=models).model_dump_json(by_alias=True))
        aside.replace(path)
        return path


@dataclass
class Server:
    """A running server of one arm and its processes."""

    process: "subprocess.Popen[bytes]"
    port: int
    model: str
    key: str
    ready: float = 0.0  # seconds from its start

    def tree(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def signal(self, number: signal.Signals) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def ask(self, *, seconds: float, **asked: Any) -> dict[str, Any]:
        """What the client, on its own core, saw of this server; `cpu` is what a request took of it, in ms."""
        plan = Plan(port=self.port, path=arms.PATH, model=self.model, key=self.key, seconds=seconds, **asked)
        command = [sys.executable, "-m", "tests.benchmarks.load"]
        before = self._cpu()
        ended = subprocess.run(
            command, input=json.dumps(asdict(plan)).encode(), stdout=subprocess.PIPE, cwd=ROOT, check=True,
            start_new_session=True,
        )  # fmt: skip
        seen: dict[str, Any] = json.loads(ended.stdout)
        return seen | {"cpu": (self._cpu() - before) * 1e3 / max(1, sum(seen["statuses"].values()))}

    def _cpu(self) -> float:
        """Seconds that its processes have computed, which no neighbour changes much."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def stop(self) -> None:
        tree = self.tree()
        self.signal(signal.SIGCONT)
        self.process.terminate()
        _, left = psutil.wait_procs(tree, timeout=10)
        for process in left:
            process.kill()
        self.process.wait()


@contextlib.contextmanager
def _running(
    shop: Shop, command: Sequence[str], model: str, variables: Mapping[str, str], *, pinned: bool = True
) -> Iterator[Server]:
    """A server that has answered; `{port}` in the command is where it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cores, log = SERVER if pinned else set(CORES), shop.root / f"{port}.log"
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)], cwd=ROOT,
            env={**shop.environment, **variables}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
    server = Server(process, port, model, shop.key)
    try:
        while not _answers(server):
            if process.poll() is not None or time.monotonic() - begun > 120:
                sys.exit(f"a server did not start: {' '.join(command)}\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        server.ready = time.monotonic() - begun
        yield server
    finally:
        server.stop()


def _answers(server: Server) -> bool:
    body = json.dumps({"model": server.model, "seed": 1}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{arms.PATH}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Arm:
    """A server to compare: what starts it, which bundle it answers from, what of the service it has."""

    name: str
    command: tuple[str, ...]
    version: Version
    variables: Mapping[str, str] = field(default_factory=dict)


def _plain(name: str, version: Version, arm: str | None = None, **variables: str) -> Arm:
    """One of `arms.py`."""
    command = ("tests.benchmarks.arms", arm or name, "{port}")
    return Arm(name, command, version, {"BENCH_BUNDLE": str(version.bundle), **variables})


def _product(shop: Shop, name: str, version: Version, **variables: str) -> Arm:
    """The real stack with all that `atelier up` gives it."""
    release = shop.release(secrets.token_hex(4), version)
    everything = {
        "ATELIER_RELEASE": str(release),
        **shop.keys,
        **shop.journal,
        **shop.observations,
        **shop.signing,
        **variables,
    }
    return Arm(name, _bentoml(PRODUCT), version, everything)


def _bentoml(service: str) -> tuple[str, ...]:
    return ("bentoml", "serve", service, "--host", "127.0.0.1", "--port", "{port}")


Seen = dict[str, list[dict[str, Any]]]


@contextlib.contextmanager
def _all(shop: Shop, contenders: Sequence[Arm]) -> Iterator[dict[str, Server]]:
    """All arms ready, and all stopped in the middle of nothing."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for arm in contenders:
            server = stack.enter_context(_running(shop, arm.command, arm.version.model, arm.variables))
            server.ask(seconds=0.3)
            server.signal(signal.SIGSTOP)
            servers[arm.name] = server
        yield servers


def _in_turn(servers: Mapping[str, Server], asked: Callable[[str, int], dict[str, Any]], rounds: int = ROUNDS) -> Seen:
    """What each arm was seen to do in each round; the order turns, since whoever comes second finds warmer caches."""
    seen: Seen = {name: [] for name in servers}
    for turn in range(rounds):
        for name in list(servers)[:: 1 if turn % 2 else -1]:
            servers[name].signal(signal.SIGCONT)
            seen[name].append(servers[name].ask(**asked(name, turn)))
            servers[name].signal(signal.SIGSTOP)
    return seen


def _overhead(shop: Shop) -> None:
    (version,) = shop.versions("empty", "products")
    release = {"ATELIER_RELEASE": str(shop.release("empty", version))}
    keys, journal, seen_too, signing = shop.keys, shop.journal, shop.observations, shop.signing
    contenders = [
        _plain("null", version),
        _plain("uvicorn", version),
        _plain("fastapi", version),
        _plain("handwritten", version),
        _plain("our application", version, "application", **release),
        _plain(".. and keys", version, "application", **release, **keys),
        _plain(".. and journal", version, "application", **release, **keys, **journal),
        _plain(".. and observations", version, "application", **release, **keys, **journal, **seen_too),
        _plain(".. and signature", version, "application", **release, **keys, **journal, **seen_too, **signing),
        _product(shop, "ours", version),
        _plain("litserve", version),
        Arm("handwritten in BentoML", _bentoml("tests.benchmarks.services:ByHand"), version,
            {"BENCH_BUNDLE": str(version.bundle)}),
    ]  # fmt: skip
    bare = [_bare(version)]
    with _all(shop, contenders) as servers:
        seen = _in_turn(servers, lambda name, turn: {"seconds": BRIEF}, rounds=ROUNDS)
        most = servers["null"]
        most.signal(signal.SIGCONT)
        client = most.ask(seconds=BRIEF, connections=32)["rate"]
    bare.append(_bare(version))
    p50 = {name: [statistics.median(turn["latencies"]) for turn in turns] for name, turns in seen.items()}
    function = statistics.median(bare)
    added = {name: [value - function for value in values] for name, values in p50.items()}
    print(f"the client's own ceiling against the null server, 32 connections: {client:,.0f} requests/s")
    print(f"overhead of an empty model at 1 connection; the function itself takes {_spread(bare, '.3f')} ms")
    for other in ("handwritten", "litserve"):
        print(f"  ours / {other}: {_spread(_ratios(added['ours'], added[other]), '.2f')}")
    print(f"  ours adds {_spread(added['ours'], '.2f')} ms to p50")
    print(f"  {'':<24} {'p50 ms':>26} {'added':>7} {'step':>7} {'p95':>6} {'cpu ms':>7}")
    before: float | None = function
    for name, values in p50.items():
        now = statistics.median(values)
        p95 = statistics.median(_quantile(turn["latencies"], 0.95) for turn in seen[name])
        cpu = statistics.median(turn["cpu"] for turn in seen[name])
        step = "" if before is None else f"{now - before:+.3f}"
        print(f"  {name:<24} {_spread(values, '.3f'):>26} {now - function:>7.3f} {step:>7} {p95:>6.2f} {cpu:>7.3f}")
        before = None if before is None or name == "ours" else now  # what follows is only beside it
    _faults(seen)


def _ceilings(shop: Shop) -> None:
    products = _products()
    (single,) = shop.versions("slow", "products", products=products)
    (shared,) = shop.versions("slow8", "products", products=products, rows=8)
    print(f"a model of {products} products of 256 x 256 in float32: {_bare(single):.1f} ms a pass, set for 20")
    alone = [_product(shop, "ours", single), _plain("handwritten", single), _plain("litserve", single)]
    _ceiling(shop, "one sample a pass", alone, base="handwritten", connections=16)
    together = [
        _product(shop, "ours", shared), _plain("litserve-batched", shared), _plain("litserve", shared),
        _plain("handwritten", shared),
    ]  # fmt: skip
    _ceiling(shop, "8 samples share a pass", together, base="litserve-batched", connections=32)


def _ceiling(shop: Shop, title: str, contenders: Sequence[Arm], *, base: str, connections: int) -> None:
    """Requests a second at so many connections; then latencies in an open loop, by shares of what `base` can do."""
    with _all(shop, contenders) as servers:
        seen = _in_turn(
            servers, lambda name, turn: {"seconds": min(SECONDS, 6), "connections": connections, "warm": 1.0}
        )
        rates = {name: [turn["rate"] for turn in turns] for name, turns in seen.items()}
        cpu = {name: [turn["cpu"] for turn in turns] for name, turns in seen.items()}
        print(f"ceiling of the 20 ms model, {title}, {connections} connections")
        for other in [name for name in rates if name != "ours"]:
            by_cpu = _spread(_ratios(cpu[other], cpu["ours"]), ".3f")
            print(f"  ours / {other}: {_spread(_ratios(rates['ours'], rates[other]), '.3f')}; by CPU time {by_cpu}")
        for name, values in rates.items():
            print(f"  {name:<18} {_spread(values, '.1f')} requests/s, CPU {_spread(cpu[name], '.1f')} ms each")
        _faults(seen)
        most = statistics.median(rates[base])
        able = {name: server for name, server in servers.items() if statistics.median(rates[name]) > most / 2}
        print(f"open loop, {title}: latency from the scheduled time in ms, by shares of {most:.1f}/s ({base})")
        for share in SHARES:
            rate = share * most
            asked = {"seconds": min(2 * SECONDS, max(SECONDS, FEW / rate)), "rate": rate, "warm": 1.0}
            turns = _in_turn(able, lambda name, turn, asked=asked: {**asked, "seed": turn}, rounds=min(ROUNDS, 3))
            for name, rounds in turns.items():
                parts = [f"p{share_:<2.0%}".rstrip("%") for share_ in (0.5, 0.95, 0.99)]
                values = [[_quantile(one["latencies"], q) for one in rounds] for q in (0.5, 0.95, 0.99)]
                told = "   ".join(
                    f"{part} {_spread(value, '.0f'):<18}" for part, value in zip(parts, values, strict=True)
                )
                count = sum(len(one["latencies"]) for one in rounds)
                print(f"  {share:.0%} {name:<18} {told} n={count}", flush=True)
            _faults(turns)


def _batching(shop: Shop) -> None:
    for family in ("vae", "dcgan", "flow_matching"):
        (version,) = shop.versions(family, family)
        contenders = [
            _product(shop, "shared", version),
            _product(shop, "not shared", version, BENCH_FAMILY_ROWS="1"),
            _plain("handwritten", version, BENCH_FAMILY_ROWS="1"),
        ]
        with _all(shop, contenders) as servers:
            many = _in_turn(servers, lambda name, turn: {"seconds": BRIEF, "connections": 32, "warm": 1.0})
            one = _in_turn(servers, lambda name, turn: {"seconds": BRIEF})
        rates = {f"{name}, 32 connections": [turn["rate"] for turn in turns] for name, turns in many.items()}
        cpu = {name: [turn["cpu"] for turn in turns] for name, turns in many.items()}
        rates |= {f"{name}, 1 connection": [turn["rate"] for turn in turns] for name, turns in one.items()}
        ours = rates["shared, 32 connections"]
        print(f"batching of a {family} of default size: a pass of 8 rows takes {_bare(version):.2f} ms with its PNGs, "
              f"of 1 row {_bare(version, rows=1):.2f} ms")  # fmt: skip
        for name, values in rates.items():
            if values is not ours:
                print(f"  shared, 32 connections / {name}: {_spread(_ratios(ours, values), '.2f')}")
        for name, values in cpu.items():
            if name != "shared":
                print(f"  the first by CPU time: {_spread(_ratios(values, cpu['shared']), '.2f')}  ({name})")
        for name, values in rates.items():
            print(f"  {name:<30} {_spread(values, '.0f')} requests/s", flush=True)
        _faults(many), _faults(one)


def _moves(shop: Shop) -> None:
    """A champion moved under load to a version that is not in memory, and back to one that is."""
    versions = shop.versions("dcgan", "dcgan", count=2 * ROUNDS)
    path = shop.release("moves", *versions)
    there, back, statuses = [], [], {}
    everything = {"ATELIER_RELEASE": str(path), **shop.keys, **shop.journal, **shop.observations, **shop.signing}
    with _running(shop, _bentoml(WATCHED), "dcgan", everything) as server:
        seen: dict[str, Any] = {}
        length = 1.5 + 4.0 * ROUNDS
        load = threading.Thread(target=lambda: seen.update(server.ask(seconds=length, connections=4, versions=True)))
        load.start()
        time.sleep(1.0)
        moved = []
        for turn in range(ROUNDS):
            for champion, previous in ((turn + 2, 1), (1, turn + 2)):
                moved.append((time.monotonic(), str(champion)))
                shop.release("moves", *versions, champion=champion, previous=previous)
                time.sleep(2.0)
        load.join()
    for index, (when, champion) in enumerate(moved):
        first = next((at for at, version in seen["versions"] if at > when and version == champion), None)
        assert first is not None, f"version {champion} never came"
        (back if index % 2 else there).append(first - when)
    statuses = seen["statuses"]
    failed = sum(count for status, count in statuses.items() if status != "200")
    print(f"champion of a dcgan moved under load, {len(moved)} moves, 4 connections: {failed} of "
          f"{sum(statuses.values()):,} requests failed")  # fmt: skip
    print(f"  release written to first answer of a new version: {_spread(there, '.2f')} s")
    print(f"  the same, rolled back: {_spread(back, '.2f')} s", flush=True)


def _starts(shop: Shop) -> None:
    (version,) = shop.versions("vae", "vae", latent_dim=31)
    release = shop.release("starts", version)
    everything = {"ATELIER_RELEASE": str(release), **shop.keys, **shop.journal, **shop.observations, **shop.signing}
    took, torch = [], []
    for _ in range(5):
        with _running(shop, _bentoml(WATCHED), "vae", everything, pinned=False) as server:
            took.append(server.ready)
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True, preexec_fn=_unpinned)
        torch.append(time.monotonic() - begun)
    print(f"start to a first answer, a vae, all cores: {_spread(took, '.2f')} s; `import torch` alone "
          f"{_spread(torch, '.2f')} s", flush=True)  # fmt: skip


def _memory(shop: Shop) -> None:
    """One model first, since a version without an alias would not stay in memory."""
    held = [version for number in range(20) for version in shop.versions(f"m{number}", "dcgan")]
    size = (held[0].bundle / "model.safetensors").stat().st_size / 2**20
    print(f"memory by resident models, dcgan of default size ({size:.1f} MiB of weights each)")
    for count in (1, 5, 20):
        release = shop.release(f"memory-{count}", *held[:count])
        everything = {"ATELIER_RELEASE": str(release), **shop.keys, **shop.journal, **shop.observations, **shop.signing}
        with _running(shop, _bentoml(WATCHED), held[count - 1].model, everything) as server:
            server.ask(seconds=0.5)
            sizes = sorted(process.memory_info().rss / 2**20 for process in server.tree())
            print(f"  {count:>2}: {sizes[-1]:,.0f} MiB RSS in the process that answers, {sum(sizes):,.0f} in all "
                  f"{len(sizes)}; ready after {server.ready:.1f} s", flush=True)  # fmt: skip


def _products() -> int:
    """How many products make a pass of 20 ms on one thread of a server's core, now."""
    command = [sys.executable, "-m", "tests.benchmarks.arms", "calibrate", str(round(PASS_SECONDS * 1e6))]
    return int(subprocess.check_output(command, cwd=ROOT, preexec_fn=_on_server))


def _bare(version: Version, *, rows: int | None = None) -> float:
    """Median milliseconds of `Endpoint.generate` of one full pass, in a process that does nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks.arms", "bare", "1"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "BENCH_BUNDLE": str(version.bundle)}
    if rows is not None:
        environment["BENCH_FAMILY_ROWS"] = str(rows)
    told = subprocess.check_output(command, cwd=ROOT, env=environment, preexec_fn=_on_server)
    return float(told)


def _on_server() -> None:
    os.sched_setaffinity(0, SERVER)


def _unpinned() -> None:
    os.sched_setaffinity(0, CORES)


def _ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, others, strict=True)]


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _faults(seen: Seen) -> None:
    """Say which arm answered anything but 200."""
    for name, turns in seen.items():
        wrong = [(s, n) for turn in turns for s, n in turn["statuses"].items() if s != "200"]
        if wrong:
            print(f"  {name} failed: {', '.join(f'{count} of {status}' for status, count in wrong)}")
