"""Samples from dilated causal convolutions, as in `families/wavenet.py`.

Each layer keeps what it saw as long ago as its dilation in a ring, so that a sample costs one column of each matrix and
not the whole past. N streams, T samples, F frames of `hop` samples, R channels, S skipped, V classes, L layers.
"""

from typing import NamedTuple

import numpy as np

from components.loops.choice import TOGETHER, add_product, bend, chosen, chosen_by_numpy, compiled


class Plan(NamedTuple):
    """The weights in the order in which the loop goes through them, all float32; inputs come first, outputs last."""

    embedding_VR: np.ndarray
    now_LRR: np.ndarray  # [L, R, 2 R]: filter and gate, of what a layer sees now
    past_LRR: np.ndarray  # of what it saw a dilation ago
    out_LRR: np.ndarray  # [L, R, R + S]: what is added to the channels, and what is skipped to the end
    out_bias_LR: np.ndarray
    first_SS: np.ndarray
    first_bias_S: np.ndarray
    last_SV: np.ndarray
    last_bias_V: np.ndarray
    dilations_L: np.ndarray


def write(
    plan: Plan, bias_NFLR: np.ndarray, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, *, hop: int, first: int
) -> np.ndarray:
    """Classes [N, T] that follow silence, whose class is `first`; one uniform number in [0, 1) for each.

    `bias_NFLR` [N, F, L, 2 R] is what is added to each layer's filter and gate in each frame; the last frame stays.
    """
    streams, length = uniforms_NT.shape
    written_NT = np.empty((streams, length), np.int16)
    past = int(plan.dilations_L.sum())
    for begin in range(0, streams, TOGETHER):
        part = slice(begin, min(begin + TOGETHER, streams))
        rings = np.zeros((part.stop - begin, past, plan.embedding_VR.shape[1]), np.float32)
        given = (uniforms_NT[part], temperatures_N[part], hop, first, rings, written_NT[part])
        _write(plan, bias_NFLR[part], *given)
    return written_NT


def _loop(
    plan: Plan, bias_NFLR: np.ndarray, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, hop: int, first: int,
    rings: np.ndarray, written_NT: np.ndarray,
) -> None:  # fmt: skip
    streams, length = uniforms_NT.shape
    layers, channels = plan.now_LRR.shape[0], plan.now_LRR.shape[1]
    skipped, classes, frames = plan.first_SS.shape[0], plan.last_SV.shape[1], bias_NFLR.shape[1]
    hidden = np.empty((streams, channels), np.float32)
    gates = np.empty((streams, 2 * channels), np.float32)
    outs = np.empty((streams, channels + skipped), np.float32)
    skips = np.empty((streams, skipped), np.float32)
    ends = np.empty((streams, skipped), np.float32)
    logits = np.empty((streams, classes), np.float32)
    shares = np.empty(classes, np.float32)
    latest = np.full(streams, first)
    for at in range(length):
        frame = min(at // hop, frames - 1)
        for n in range(streams):
            for c in range(channels):
                hidden[n, c] = plan.embedding_VR[latest[n], c]
            for c in range(skipped):
                skips[n, c] = 0.0
        begin = 0
        for layer in range(layers):
            place = begin + at % plan.dilations_L[layer]
            begin += plan.dilations_L[layer]
            for n in range(streams):
                for o in range(2 * channels):
                    gates[n, o] = bias_NFLR[n, frame, layer, o]
            add_product(hidden, plan.now_LRR[layer], gates)
            add_product(rings[:, place], plan.past_LRR[layer], gates)
            for n in range(streams):
                for c in range(channels):
                    rings[n, place, c] = hidden[n, c]
                    gates[n, channels + c] *= np.float32(0.5)
                bend(gates[n])
                for c in range(channels):
                    gates[n, c] *= np.float32(0.5) * gates[n, channels + c] + np.float32(0.5)
                for o in range(channels + skipped):
                    outs[n, o] = plan.out_bias_LR[layer, o]
            add_product(gates, plan.out_LRR[layer], outs)
            for n in range(streams):
                for c in range(channels):
                    hidden[n, c] += outs[n, c]
                for c in range(skipped):
                    skips[n, c] += outs[n, channels + c]
        for n in range(streams):
            for c in range(skipped):
                skips[n, c] = max(skips[n, c], np.float32(0.0))
                ends[n, c] = plan.first_bias_S[c]
        add_product(skips, plan.first_SS, ends)
        for n in range(streams):
            for c in range(skipped):
                ends[n, c] = max(ends[n, c], np.float32(0.0))
            for o in range(classes):
                logits[n, o] = plan.last_bias_V[o]
        add_product(ends, plan.last_SV, logits)
        for n in range(streams):
            latest[n] = chosen(logits[n], temperatures_N[n], uniforms_NT[n, at], shares)
            written_NT[n, at] = latest[n]


def _by_numpy(
    plan: Plan, bias_NFLR: np.ndarray, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, hop: int, first: int,
    rings: np.ndarray, written_NT: np.ndarray,
) -> None:  # fmt: skip
    """The same by matrices, a stream at a time so that it is alone in each product."""
    channels, last_frame = plan.now_LRR.shape[1], bias_NFLR.shape[1] - 1
    begins = np.concatenate([[0], np.cumsum(plan.dilations_L)[:-1]])
    for n in range(len(uniforms_NT)):
        latest = first
        for at, uniform in enumerate(uniforms_NT[n]):
            bias_LR = bias_NFLR[n, min(at // hop, last_frame)]
            hidden, skips = plan.embedding_VR[latest], np.zeros(len(plan.first_SS), np.float32)
            for layer, place in enumerate(begins + at % plan.dilations_L):
                gates = bias_LR[layer] + hidden @ plan.now_LRR[layer] + rings[n, place] @ plan.past_LRR[layer]
                rings[n, place] = hidden
                passed = np.tanh(gates[:channels]) / (1 + np.exp(-gates[channels:]))
                out = plan.out_bias_LR[layer] + passed @ plan.out_LRR[layer]
                hidden, skips = hidden + out[:channels], skips + out[channels:]
            ends = np.maximum(plan.first_bias_S + np.maximum(skips, 0) @ plan.first_SS, 0)
            latest = chosen_by_numpy(plan.last_bias_V + ends @ plan.last_SV, temperatures_N[n], uniform)
            written_NT[n, at] = latest


_write = compiled(_loop, otherwise=_by_numpy)
