"""IDX, the format of MNIST and its kin: grey pictures of one size in one file, their labels in another, gzipped or not.

`train-images-idx3-ubyte[.gz]` and `train-labels-idx1-ubyte[.gz]` are the split "train", `t10k-...` the split "t10k",
and so on for any other word in front. A picture becomes a PNG, for payloads are file bytes whatever the source. The
header is four bytes (0, 0, type, dimensions) and a big-endian 32-bit size for each dimension, then the bytes.
Source: http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from PIL import Image

from components.errors import AtelierError
from components.sources.contract import Kind, Table, gather
from components.sources.listing import Listing, unreadable

NAME = re.compile(r"(?P<split>.+)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")
DIMENSIONS = {"images": 3, "labels": 1}
UNSIGNED_BYTES = 0x08
LARGEST = 64 * 2**20  # pixels of a picture
COLUMNS = {"id": pa.string(), "payload": pa.binary(), "label": pa.int64(), "split": pa.string()}


@dataclass(frozen=True)
class _Split:
    """The files of one split."""

    name: str
    images: str
    labels: str | None


def _claims(name: str) -> bool:
    return NAME.fullmatch(name.rsplit("/", 1)[-1]) is not None


def _open(listing: Listing, modality: str) -> Table:
    splits = _splits(listing)
    labelled = [split for split in splits if split.labels]
    if labelled and len(labelled) < len(splits):
        bare = next(split.images for split in splits if not split.labels)
        raise AtelierError(f"{bare!r} of {listing.title!r} has no file of labels beside it, though others have one.")
    columns = tuple(name for name in COLUMNS if name != "label" or labelled)
    return Table(columns, lambda wanted: _read(listing, splits, wanted), payload="payload")


def _splits(listing: Listing) -> list[_Split]:
    """The splits in the order of their names."""
    found: dict[str, dict[str, str]] = {}
    for name in filter(_claims, listing.files()):
        match = NAME.fullmatch(name.rsplit("/", 1)[-1])
        assert match is not None
        files = found.setdefault(match["split"], {})
        if match["what"] in files:
            raise AtelierError(
                f"{listing.title!r} has the {match['what']} of {match['split']!r} twice, as {files[match['what']]!r} "
                f"and {name!r}: keep one of them."
            )
        files[match["what"]] = name
    for split, files in found.items():
        if "images" not in files:
            raise AtelierError(f"{files['labels']!r} of {listing.title!r} lacks the images of {split!r} beside it.")
    return [_Split(split, files["images"], files.get("labels")) for split, files in sorted(found.items())]


def _read(listing: Listing, splits: Sequence[_Split], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([(name, COLUMNS[name]) for name in columns])
    return gather((row for split in splits for row in _rows(listing, split, columns)), schema)


def _rows(listing: Listing, split: _Split, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _opened(listing, split.images, "images") as (images, (count, height, width)):
        labels = _labels(listing, split, count)
        for number in range(count):
            row: dict[str, Any] = {"id": f"{split.name}-{number:05}", "split": split.name, "label": next(labels)}
            if "payload" in columns:
                row["payload"] = _png(_exactly(images, height * width), height, width)
            yield row
        next(labels, None)  # which sees that nothing follows the last one
        if "payload" in columns and images.read(1):
            raise _Lying("more bytes follow")


def _labels(listing: Listing, split: _Split, count: int) -> Iterator[int | None]:
    """A label for each picture; None where the source has none."""
    if split.labels is None:
        yield from [None] * count
        return
    with _opened(listing, split.labels, "labels") as (stream, (labels,)):
        if labels != count:
            raise AtelierError(
                f"{split.images!r} of {listing.title!r} has {count:,} pictures, but {split.labels!r} has {labels:,} "
                "labels. Put the files there again."
            )
        for _ in range(count):
            yield _exactly(stream, 1)[0]
        if stream.read(1):
            raise _Lying("more bytes follow")


class _Lying(Exception):
    """The bytes are not what the header says."""


@contextmanager
def _opened(listing: Listing, name: str, what: str) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """A file behind its header, and the sizes that the header says; what is wrong with it is an `AtelierError`."""
    path = listing.root / name
    try:
        with path.open("rb") as raw, cast(BinaryIO, gzip.open(raw) if name.endswith(".gz") else raw) as stream:
            sizes = _header(stream, DIMENSIONS[what])
            if stream is raw and listing.size(name) != (told := 4 + 4 * len(sizes) + math.prod(sizes)):
                raise _Lying(f"the header tells of {told:,} bytes, but the file has {listing.size(name):,}")
            yield stream, sizes
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AtelierError(f"{name!r} of {listing.title!r} is not a whole gzip file: {error}.") from None
    except _Lying as error:
        raise AtelierError(
            f"{name!r} of {listing.title!r} is not a whole IDX file of {what}: {error}. Put it there again."
        ) from None
    except OSError as error:
        raise unreadable(listing.title, error, name) from None


def _header(stream: BinaryIO, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if magic != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise _Lying(
            f"it begins with {magic.hex(' ') or 'nothing'}, where unsigned bytes in {dimensions} "
            f"dimension{'s' * (dimensions > 1)} begin with 00 00 08 {dimensions:02}"
        )
    sizes = struct.unpack(f">{dimensions}I", _exactly(stream, 4 * dimensions))
    if dimensions == 3 and not 0 < sizes[1] * sizes[2] <= LARGEST:
        raise _Lying(f"pictures of {sizes[1]} x {sizes[2]} pixels")
    return sizes


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) != count:
        raise _Lying("it ends before the last of them")
    return content


def _png(pixels: bytes, height: int, width: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.frombuffer(pixels, dtype=np.uint8).reshape(height, width)).save(written, "png")
    return written.getvalue()


KIND = Kind("idx", "IDX files", "-images-idx3-ubyte[.gz]", _claims, _open, modality="image")
