"""Networks that a team hands in as a file, ONNX or a program of `torch.export`: encoders, and judges of pictures.

Whatever network it is (Inception, DINO, CLIP), the file takes rows as the recipe prepares them, float32 [B, C, H, W] in
[-1, 1] with B free, and gives numbers of each, float32 [B, D]: what it wants to resize or normalise, it does itself.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import AtelierError

CHUNK = 64  # rows at once
Space = Callable[[Tensor], Tensor]


def opened(path: Path, *, called: str = "encoder") -> Space:
    """A function from rows [B, C, H, W] to numbers [B, D] on the CPU; an `AtelierError` where the file has none.

    `called` is what its errors call the network.
    """
    name = f"the {called} {path.name}"
    try:
        run = _onnx(path, name) if path.suffix == ".onnx" else _exported(path)
    except AtelierError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a reader of files may raise
        raise AtelierError(f"{name} cannot be read: {_line(error)}") from None

    def space(rows: Tensor) -> Tensor:
        return torch.cat([_checked(run, part.float().cpu(), name) for part in torch.split(rows, CHUNK)])

    return space


def _checked(run: Callable[[Tensor], Any], rows: Tensor, name: str) -> Tensor:
    """The numbers of some rows; an `AtelierError` says what the file does not take or give."""
    try:
        found = torch.as_tensor(run(rows))
    except Exception as error:  # noqa: BLE001 - a network of any kind
        raise AtelierError(
            f"{name} does not take rows of {list(rows.shape[1:])}, {len(rows)} at once: {_line(error)}. "
            "Export it for float32 [B, C, H, W] in [-1, 1] as the recipe prepares them, with B free."
        ) from None
    if found.ndim != 2 or len(found) != len(rows) or not found.is_floating_point():
        raise AtelierError(
            f"{name} gives {list(found.shape)} of {found.dtype} for {len(rows)} rows. Export it so that it "
            f"gives float32 [{len(rows)}, D]."
        )
    return found.detach().float().cpu()


def _exported(path: Path) -> Callable[[Tensor], Any]:
    program = torch.export.load(path).module()
    return torch.inference_mode()(program)


def _onnx(path: Path, name: str) -> Callable[[Tensor], Any]:
    if find_spec("onnxruntime") is None:
        raise AtelierError(
            f"{name} needs onnxruntime, which is not installed: pip install onnxruntime, or hand it "
            "in as a program of torch.export (.pt2)."
        )
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (asked, *_), (told, *_) = session.get_inputs(), session.get_outputs()
    return lambda rows: session.run([told.name], {asked.name: rows.numpy()})[0]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
