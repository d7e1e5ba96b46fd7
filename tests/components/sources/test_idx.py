"""IDX files, as MNIST has them."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.errors import AtelierError
from components.recipe import HeldOut
from tests.components.sources.ingested import fill, run, table

T10K = HeldOut(column="split", value="t10k")


def images(count: int, *, height: int = 3, width: int = 5, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, count * height * width, dtype=np.uint8)
    return struct.pack(">BBBBIII", 0, 0, 8, 3, count, height, width) + pixels.tobytes()


def labels(count: int) -> bytes:
    return struct.pack(">BBBBI", 0, 0, 8, 1, count) + bytes(number % 3 for number in range(count))


def mnist(**changed: bytes) -> dict[str, bytes | str]:
    files = {
        "train_images": images(6),
        "train_labels": labels(6),
        "t10k_images": images(2, seed=1),
        "t10k_labels": labels(2),
    }
    names = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
    return {
        f"{name.split('_')[0]}-{names[name.split('_')[1]]}": content
        for name, content in (files | changed).items()
        if content
    }


def test_pictures_become_png_with_labels_and_splits(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", mnist())
    dataset = run(tmp_path, T10K)
    found = table(tmp_path, dataset)
    assert found["id"] == [f"t10k-0000{n}" for n in range(2)] + [f"train-0000{n}" for n in range(6)]
    assert found["split"] == ["held_out"] * 2 + ["train"] * 6
    assert found["label"] == [0, 1, 0, 1, 2, 0, 1, 2]
    assert dataset.classes == ("0", "1", "2")
    decoded = [np.asarray(Image.open(io.BytesIO(payload))) for payload in found["payload"][2:]]
    assert np.stack(decoded).tobytes() == images(6)[16:]
    assert decoded[0].shape == (3, 5)


def test_gzipped_files_give_the_same_rows(tmp_path: Path) -> None:
    fill(tmp_path / "a/data/d", mnist())
    fill(tmp_path / "b/data/d", {f"{name}.gz": gzip.compress(content) for name, content in mnist().items()})  # type: ignore[arg-type]
    assert run(tmp_path / "a", T10K).rows == run(tmp_path / "b", T10K).rows


def test_labels_may_be_missing_and_the_card_names_classes(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", mnist(train_labels=b"", t10k_labels=b""))
    assert set(table(tmp_path, run(tmp_path, T10K))["label"]) == {None}
    fill(tmp_path / "data/d", mnist() | {"README.md": "---\nclasses: [a, b, c]\n---\n"})
    assert run(tmp_path, T10K).classes == ("a", "b", "c")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"train_images": b"\0\0\x08\x01" + images(6)[4:]}, "begins with 00 00 08 01, where .* begin with 00 00 08 03"),
        ({"train_images": b"\x89PNG"}, "begins with 89 50 4e 47"),
        ({"train_images": images(6)[:-1]}, "the header tells of 106 bytes, but the file has 105|ends before the last"),
        ({"train_images": images(6) + b"\0"}, "has 107|more bytes follow"),
        ({"train_images": images(6)[:9]}, "ends before the last"),
        ({"train_images": struct.pack(">BBBBIII", 0, 0, 8, 3, 1, 2**31, 2**31)}, "pictures of 2147483648 x 2147483648"),
        ({"train_images": struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 3, 5)}, "has 6 labels|the header tells of"),
        ({"train_labels": labels(5)}, r"has 6 pictures, but 'train-labels.*' has 5 labels"),
        ({"train_labels": labels(6)[:-1]}, "the header tells of 14 bytes, but the file has 13|ends before the last"),
        ({"train_labels": labels(6) + b"\0"}, "has 15|more bytes follow"),
        ({"train_labels": b""}, "has no file of labels beside it, though others have one"),
        ({"train_images": b""}, "lacks the images of 'train' beside it"),
    ],
)
def test_a_lying_file_is_named(tmp_path: Path, changed: dict[str, bytes], told: str, packed: bool) -> None:
    files = mnist(**changed)
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}  # type: ignore[arg-type]
    fill(tmp_path / "data/d", files)
    with pytest.raises(AtelierError, match=told):
        run(tmp_path, T10K)
    assert not (tmp_path / ".atelier/rows").exists()


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    for number, damage in enumerate(
        [lambda c: c[:-12], lambda c: b"no gzip" + c, lambda c: c[:20] + b"\xff\xff" + c[22:]]
    ):
        files = {f"{name}.gz": gzip.compress(content) for name, content in mnist().items()}  # type: ignore[arg-type]
        files["train-images-idx3-ubyte.gz"] = damage(files["train-images-idx3-ubyte.gz"])
        fill(tmp_path / str(number) / "data/d", files)  # type: ignore[arg-type]
        with pytest.raises(AtelierError, match=r"train-images.* is not a whole gzip file"):
            run(tmp_path / str(number), T10K)


def test_two_copies_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", mnist() | {"train-images-idx3-ubyte.gz": gzip.compress(images(6))})
    with pytest.raises(AtelierError, match="has the images of 'train' twice"):
        run(tmp_path, T10K)
