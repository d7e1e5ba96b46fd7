"""Texts: how fast our `gpt` writes and learns beside others, and what else the same time buys.

Writing: tokens a second beside `generate` of transformers, on the same weights. Learning: `NANOGPT=path make bench`
names a checkout of nanoGPT whose `data/shakespeare_char/input.txt` is there, as its README has it prepared; without it
there is nothing to compare with, and nothing is measured. Both learn 2,000 steps of 12 windows of 64 characters with 4
layers, 4 heads and a width of 128, on the same cores. A step's time is that of loading, forward, backward and update;
losses are nats a character over the whole of its validation side, in windows of 64 that no other overlaps, of the
weights after the last step.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from components import families, loading, training
from components.modalities.text.batch import TextSpec
from components.modalities.text.shards import Split
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens
from components.recipe import Candidate, Train
from tests.benchmarks import public

STEPS, BATCH, CONTEXT = 2000, 12, 64
THREADS = int(os.environ.get("ATELIER_BENCH_THREADS", len(os.sched_getaffinity(0))))
SETTING = {
    "device": "cpu", "compile": False, "eval_interval": STEPS, "eval_iters": 1, "log_interval": 1,
    "block_size": CONTEXT, "batch_size": BATCH, "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": STEPS,
    "lr_decay_iters": STEPS, "dropout": 0.0, "always_save_checkpoint": True, "out_dir": "out-atelier",
}  # fmt: skip
STEP = re.compile(r"^iter (\d+): loss \S+, time (\S+)ms", re.MULTILINE)
LOSS = """
import sys, numpy as np, torch
from model import GPT, GPTConfig
kept = torch.load("out-atelier/ckpt.pt", map_location="cpu")
model = GPT(GPTConfig(**kept["model_args"]))
model.load_state_dict(kept["model"])
model.eval()
ids = torch.from_numpy(np.fromfile("data/shakespeare_char/val.bin", np.uint16).astype(np.int64))
size = kept["model_args"]["block_size"]
rows = (len(ids) - 1) // size
x, y = ids[: rows * size].view(rows, size), ids[1 : rows * size + 1].view(rows, size)
with torch.no_grad():
    print(sum(model(a, b)[1].item() * len(a) for a, b in zip(x.split(64), y.split(64))) / rows)
"""


@dataclass(frozen=True)
class Learnt:
    """What an arm came to: seconds in all, seconds of each step, and the loss in nats a character."""

    seconds: float
    steps: list[float]
    loss: float

    def told(self) -> str:
        low, middle, high = quantiles(self.steps, n=4)
        rate = BATCH * CONTEXT / median(self.steps)
        return (
            f"{self.loss:.4f} nats a character, {rate:,.0f} tokens/s by the median step "
            f"({1e3 * middle:.1f} ms, quartiles {1e3 * low:.1f} and {1e3 * high:.1f}), {self.seconds:.0f} s in all"
        )


ROUNDS, WRITTEN = 5, 96  # times that a text of so many tokens is written
TRANSFORMERS = public.Arm("generate", "transformers==5.23.0 numpy", 0, THREADS, {})
WORKSPACE = Path(__file__).resolve().parents[2] / ".atelier" / "quality" / "public"


def main() -> None:
    """gpt writing beside `generate` of transformers; training beside nanoGPT."""
    torch.set_num_threads(THREADS)
    for preset, rows in (("tiny", (1, 16)), ("124M", (1,))):
        _written(preset, rows)
    _trained()


def _written(preset: str, rows: Sequence[int]) -> None:
    """Tokens a second of one text and of several, and what share that is of what reading the weights would allow."""
    module = families.get("gpt")
    torch.manual_seed(0)
    with torch.inference_mode():
        family = module.Model(module.Config(preset=preset), TextSpec(tokenizer=ByteTokens(), context=128)).eval()
        for block in family.network.blocks:
            torch.nn.init.normal_(block.joined.weight, std=0.02)
            torch.nn.init.normal_(block.narrow.weight, std=0.02)
    tokens = [ByteTokens().end, *b"To be, or not to be"]
    with TemporaryDirectory(dir=_made(WORKSPACE)) as folder:
        family.save(Path(folder))
        (Path(folder) / "asked.json").write_text(json.dumps({"tokens": tokens, "rows": rows, "count": WRITTEN}))
        script = public.ARMS / f"{TRANSFORMERS.script}.py"
        python = public.environment(TRANSFORMERS, WORKSPACE)
        command = [str(python), str(script), folder, str(THREADS), str(ROUNDS)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        told = json.loads((Path(folder) / "told.json").read_text())
    with torch.inference_mode():
        ours = family.network(torch.tensor([tokens]))[0, -1]
    torch.testing.assert_close(torch.tensor(told["logits"]), ours, atol=1e-3, rtol=1e-3)
    size = sum(weights.nbytes for weights in family.parameters())
    for count in rows:
        family.rows = count
        rates = []
        for turn in range(ROUNDS):
            decoder = family.stepper()
            for seed in range(count):
                decoder.admit(turn * count + seed, module.Controls(max_tokens=10**4))
            begun = time.perf_counter()
            made = sum(len(decoder.step()) for _ in range(WRITTEN))
            rates.append(made / (time.perf_counter() - begun))
        mine, theirs = median(rates), median(told[str(count)])
        limit = _read_rate() / size * count
        print(
            f"gpt {preset}, {count} texts at once: {mine:,.0f} tokens/s ({min(rates):,.0f} to {max(rates):,.0f}), "
            f"{mine / theirs:.2f} times generate's {theirs:,.0f}; {mine / limit:.2f} of what reading its "
            f"{size / 2**20:.0f} MiB of weights allows",
            flush=True,
        )


def _read_rate() -> float:
    """Bytes a second that this machine reads from memory: a sum over what no cache holds."""
    memory = torch.ones(2**27)
    memory.sum()
    rates = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        memory.sum()
        rates.append(memory.nbytes / (time.perf_counter() - begun))
    return median(rates)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _trained() -> None:
    """gpt beside nanoGPT: the same architecture, data, steps and cores; then our own best in the same time."""
    place = os.environ.get("NANOGPT")
    if place is None:
        print("skipped: NANOGPT names no checkout of nanoGPT")
        return
    theirs = _nanogpt(Path(place))
    print(f"nanoGPT: {theirs.told()}", flush=True)
    sides = _sides(Path(place), CONTEXT)
    for precision in ("fp32", "bf16"):
        settings = Train(steps=STEPS, batch_size=BATCH, precision=precision, **SCHEDULE)
        equal = _ours({"layers": 4, "heads": 4, "width": 128}, sides, settings)
        times = f"tokens/s {median(theirs.steps) / median(equal.steps):.2f} times"
        print(f"gpt, the same, {precision}: {equal.told()}; {times}", flush=True)
    best = _own_best(Path(place), theirs.seconds)
    print(f"lstm, the same time: {best.told()}", flush=True)


SCHEDULE: dict[str, Any] = {"schedule": "cosine", "warmup": 100, "clip_norm": 1.0}


def _nanogpt(place: Path) -> Learnt:
    data = place / "data" / "shakespeare_char"
    if not (data / "train.bin").exists():
        subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
    given = [f"--{name}={value}" for name, value in SETTING.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "train.py", "config/train_shakespeare_char.py", *given],
        cwd=place, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    steps = {int(step): float(took) / 1e3 for step, took in STEP.findall(done.stdout)}
    measured = [took for step, took in steps.items() if step % STEPS]  # the first and the last hold an evaluation
    told = subprocess.run([sys.executable, "-c", LOSS], cwd=place, capture_output=True, text=True, check=True).stdout
    loss = float(told.split()[-1])  # behind what its model says of itself
    return Learnt(min(seconds, sum(steps.values())), measured, loss)


def _sides(place: Path, context: int) -> tuple[Split, Split]:
    """nanoGPT's own two sides, its characters in the same order."""
    text = (place / "data" / "shakespeare_char" / "input.txt").read_text()
    tokenizer = CharacterTokens(characters="".join(sorted(set(text))))
    spec = TextSpec(tokenizer=tokenizer, context=context)
    parts = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    train, held_out = (
        Split(tokenizer.encode(part).astype(np.uint8), np.zeros(1, np.int64), None, spec, len(part)) for part in parts
    )
    return train, held_out


def _ours(config: dict[str, Any], sides: tuple[Split, Split], settings: Train, *, family: str = "gpt") -> Learnt:
    train, held_out = sides
    torch.manual_seed(settings.seed)
    built = training.build(Candidate(family=family, config=config, train=settings), train.spec)
    loop = training.Loop(built, settings)
    batches = training.batches(built, train, settings, start=0, augment=None)
    begun, steps = time.perf_counter(), []
    while loop.step < settings.steps:
        started = time.perf_counter()
        loop.advance(next(batches))
        steps.append(time.perf_counter() - started)
    return Learnt(time.perf_counter() - begun, steps, _loss(built.eval(), held_out))


@torch.inference_mode()
def _loss(family: Any, held_out: Split) -> float:
    """Over the whole side in windows of its context; a family that carries state reads on through sixteen parts."""
    size = min(16, len(held_out))
    total, memory = 0.0, None
    for step in range(len(held_out) // size):
        rows = held_out.batch(loading.consecutive(len(held_out), step=step, size=size))
        nats_B, memory = family.nats(rows, memory)
        total += float(nats_B.sum())
    return total / ((step + 1) * size * held_out.spec.context)


def _own_best(place: Path, seconds: float) -> Learnt:
    """An LSTM of the usual size over as many steps as that time holds, by the pace of its first fifty."""
    sides = _sides(place, CONTEXT)
    tried = _ours({}, sides, Train(steps=50, batch_size=16), family="lstm")
    steps = round(seconds / median(tried.steps))
    return _ours({}, sides, Train(steps=steps, batch_size=16, **SCHEDULE), family="lstm")
