"""Samples from three tiers, of which two are recurrent and run once a frame, as in `families/samplernn.py`.

N streams, T samples, W width, V classes, A samples of a frame of the upper tier, B of the lower, U = A / B.
"""

from typing import NamedTuple

import numpy as np

from components.loops.choice import TOGETHER, add_product, bend, chosen, chosen_by_numpy, compiled, part


class Tier(NamedTuple):
    """A recurrent tier, inputs first: gates are reset, update and new, as `torch.nn.GRU` has them."""

    frame_AW: np.ndarray  # [samples of a frame, W]
    frame_bias_W: np.ndarray
    input_WG: np.ndarray  # [W, 3 W]
    input_bias_G: np.ndarray
    hidden_WG: np.ndarray
    hidden_bias_G: np.ndarray
    up_WX: np.ndarray  # [W, W times how many frames, or samples, of the tier below this one speaks to]
    up_bias_X: np.ndarray
    state_W: np.ndarray  # at first


class Plan(NamedTuple):
    """The weights, all float32. `heard_BVW` is what each of the latest samples adds by its class, the latest last."""

    upper: Tier
    lower: Tier
    heard_BVW: np.ndarray
    first_WW: np.ndarray
    first_bias_W: np.ndarray
    last_WV: np.ndarray
    last_bias_V: np.ndarray
    levels_V: np.ndarray  # what sample each class is


def write(plan: Plan, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, *, first: int) -> np.ndarray:
    """Classes [N, T] that follow silence, whose class is `first`; one uniform number in [0, 1) for each."""
    streams, length = uniforms_NT.shape
    written_NT = np.empty((streams, length), np.int16)
    for begin in range(0, streams, TOGETHER):
        some = slice(begin, min(begin + TOGETHER, streams))
        _write(plan, uniforms_NT[some], temperatures_N[some], first, written_NT[some])
    return written_NT


def _times(inputs_NI: np.ndarray, weights_IO: np.ndarray, bias_O: np.ndarray, out_NO: np.ndarray) -> None:
    """Each row of inputs times the weights."""
    for n in range(len(inputs_NI)):
        for o in range(len(bias_O)):
            out_NO[n, o] = bias_O[o]
    add_product(inputs_NI, weights_IO, out_NO)


def _recur(inside_NG: np.ndarray, beside_NG: np.ndarray, state_NW: np.ndarray) -> None:
    """The next state of gated recurrent units, in place, from both their products."""
    width = state_NW.shape[1]
    for n in range(len(state_NW)):
        for c in range(2 * width):
            inside_NG[n, c] = np.float32(0.5) * (inside_NG[n, c] + beside_NG[n, c])
        bend(inside_NG[n, : 2 * width])
        for c in range(width):
            reset = np.float32(0.5) * inside_NG[n, c] + np.float32(0.5)
            inside_NG[n, 2 * width + c] += reset * beside_NG[n, 2 * width + c]
        bend(inside_NG[n, 2 * width :])
        for c in range(width):
            kept = np.float32(0.5) * inside_NG[n, width + c] + np.float32(0.5)
            state_NW[n, c] = inside_NG[n, 2 * width + c] * (np.float32(1.0) - kept) + state_NW[n, c] * kept


_times, _recur = part(_times), part(_recur)


def _loop(plan: Plan, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, first: int, written_NT: np.ndarray) -> None:
    streams, length = uniforms_NT.shape
    upper, lower = plan.upper, plan.lower
    far, near, width = upper.frame_AW.shape[0], lower.frame_AW.shape[0], upper.frame_AW.shape[1]
    heard = np.full((streams, far), first)  # the latest classes, the latest last
    levels = np.empty((streams, far), np.float32)
    states = np.empty((2, streams, width), np.float32)
    for n in range(streams):
        states[0, n], states[1, n] = upper.state_W, lower.state_W
    entered = np.empty((streams, width), np.float32)
    inside = np.empty((streams, 3 * width), np.float32)
    beside = np.empty((streams, 3 * width), np.float32)
    above = np.empty((streams, upper.up_WX.shape[1]), np.float32)
    below = np.empty((streams, lower.up_WX.shape[1]), np.float32)
    hidden = np.empty((streams, width), np.float32)
    deeper = np.empty((streams, width), np.float32)
    logits = np.empty((streams, plan.last_WV.shape[1]), np.float32)
    shares = np.empty(plan.last_WV.shape[1], np.float32)
    for at in range(length):
        if at % near == 0:
            for n in range(streams):
                for i in range(far):
                    levels[n, i] = plan.levels_V[heard[n, i]]
        if at % far == 0:
            _times(levels, upper.frame_AW, upper.frame_bias_W, entered)
            _times(entered, upper.input_WG, upper.input_bias_G, inside)
            _times(states[0], upper.hidden_WG, upper.hidden_bias_G, beside)
            _recur(inside, beside, states[0])
            _times(states[0], upper.up_WX, upper.up_bias_X, above)
        if at % near == 0:
            told = (at % far) // near * width
            _times(levels[:, far - near :], lower.frame_AW, lower.frame_bias_W, entered)
            for n in range(streams):
                for c in range(width):
                    entered[n, c] += above[n, told + c]
            _times(entered, lower.input_WG, lower.input_bias_G, inside)
            _times(states[1], lower.hidden_WG, lower.hidden_bias_G, beside)
            _recur(inside, beside, states[1])
            _times(states[1], lower.up_WX, lower.up_bias_X, below)
        told = at % near * width
        for n in range(streams):
            for c in range(width):
                hidden[n, c] = below[n, told + c]
            for i in range(near):
                known = heard[n, far - near + i]
                for c in range(width):
                    hidden[n, c] += plan.heard_BVW[i, known, c]
            for c in range(width):
                hidden[n, c] = max(hidden[n, c], np.float32(0.0))
        _times(hidden, plan.first_WW, plan.first_bias_W, deeper)
        for n in range(streams):
            for c in range(width):
                deeper[n, c] = max(deeper[n, c], np.float32(0.0))
        _times(deeper, plan.last_WV, plan.last_bias_V, logits)
        for n in range(streams):
            for i in range(far - 1):
                heard[n, i] = heard[n, i + 1]
            heard[n, far - 1] = chosen(logits[n], temperatures_N[n], uniforms_NT[n, at], shares)
            written_NT[n, at] = heard[n, far - 1]


def _by_numpy(
    plan: Plan, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, first: int, written_NT: np.ndarray
) -> None:
    """The same by matrices, a stream at a time so that it is alone in each product."""
    upper, lower = plan.upper, plan.lower
    far, near, width = len(upper.frame_AW), len(lower.frame_AW), upper.frame_AW.shape[1]
    for n in range(len(uniforms_NT)):
        heard = [first] * far
        states, above, below = [upper.state_W, lower.state_W], np.empty(0), np.empty(0)
        for at, uniform in enumerate(uniforms_NT[n]):
            if at % far == 0:
                entered = plan.levels_V[heard[-far:]] @ upper.frame_AW + upper.frame_bias_W
                states[0] = _next(upper, entered, states[0])
                above = (states[0] @ upper.up_WX + upper.up_bias_X).reshape(-1, width)
            if at % near == 0:
                entered = plan.levels_V[heard[-near:]] @ lower.frame_AW + lower.frame_bias_W
                states[1] = _next(lower, entered + above[at % far // near], states[1])
                below = (states[1] @ lower.up_WX + lower.up_bias_X).reshape(-1, width)
            known = sum(plan.heard_BVW[i, heard[i - near]] for i in range(near))
            hidden = np.maximum(below[at % near] + known, 0)
            deeper = np.maximum(hidden @ plan.first_WW + plan.first_bias_W, 0)
            heard.append(chosen_by_numpy(deeper @ plan.last_WV + plan.last_bias_V, temperatures_N[n], uniform))
            written_NT[n, at] = heard[-1]


def _next(tier: Tier, entered: np.ndarray, state: np.ndarray) -> np.ndarray:
    inside = entered @ tier.input_WG + tier.input_bias_G
    beside = state @ tier.hidden_WG + tier.hidden_bias_G
    width = len(state)
    gates = 1 / (1 + np.exp(-(inside + beside)[: 2 * width]))
    new = np.tanh(inside[2 * width :] + gates[:width] * beside[2 * width :])
    following: np.ndarray = new + gates[width:] * (state - new)
    return following


_write = compiled(_loop, otherwise=_by_numpy)
