"""A sample tells where it came from, and whatever is changed of it is noticed."""

import base64
import io
import json
import struct
import subprocess
import sys
import time
import wave
import zlib
from pathlib import Path

import pytest
from PIL import Image

from components import provenance
from components.errors import AtelierError
from components.modalities.image import codec
from components.provenance import Signer

ROOT = Path(__file__).resolve().parents[2]
TRACE = {
    "model": "fashion", "version": "2", "digest": "sha256:" + "0" * 64, "seed": 7, "controls": {"truncation": 0.8},
    "data": "md5:d.dir", "run": "r", "recipe": "sha256:1", "commit": "none", "verdict": "sha256:2",
}  # fmt: skip


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.of(provenance.new_key())


@pytest.fixture(scope="module")
def keys(signer: Signer) -> dict[str, str]:
    return {signer.key_id: signer.public_pem}


def png(mode: str = "L", level: int = 0) -> bytes:
    picture = Image.effect_noise((28, 28), 60).convert(mode)
    picture.putpixel((3, 4), level)
    return saved(picture)


def saved(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def opened(payload: bytes) -> Image.Image:
    return Image.open(io.BytesIO(payload))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_note(payload: bytes, manifest: object) -> bytes:
    """The PNG with another manifest, well formed, in place of its own."""
    return codec.carry(payload, json.dumps(manifest).encode())


def status(payload: bytes, keys: dict[str, str]) -> str:
    return provenance.verify(payload, provenance.read(payload), keys).status


def test_a_picture_carries_its_manifest_and_is_intact(signer: Signer, keys: dict[str, str]) -> None:
    plain = png()
    marked, manifest = provenance.attach(plain, TRACE, modality="image", signer=signer)
    assert provenance.read(marked) == manifest and manifest["trace"] == TRACE
    finding = provenance.verify(marked, manifest, keys)
    assert finding.intact and signer.key_id in finding.why
    assert opened(marked).tobytes() == opened(plain).tobytes()
    assert json.loads(opened(marked).text["atelier"]) == manifest, "any reader of PNG finds it"


def test_the_same_sample_trace_and_key_give_the_same_bytes_and_an_older_note_gives_way(signer: Signer) -> None:
    plain = png()
    once, _ = provenance.attach(plain, TRACE, modality="image", signer=signer)
    assert provenance.attach(plain, dict(reversed(TRACE.items())), modality="image", signer=signer)[0] == once
    other, _ = provenance.attach(plain, TRACE | {"seed": 8}, modality="image", signer=signer)
    assert other != once
    assert provenance.attach(other, TRACE, modality="image", signer=signer)[0] == once


def test_without_a_key_it_is_whole_but_unsigned(keys: dict[str, str]) -> None:
    marked, manifest = provenance.attach(png(), TRACE, modality="image", signer=None)
    assert manifest["trace"] == TRACE and "signature" not in manifest
    assert status(marked, keys) == "unsigned"


def test_a_text_has_its_manifest_beside_it(signer: Signer, keys: dict[str, str]) -> None:
    payload = b"To be, or not to be"
    same, manifest = provenance.attach(payload, TRACE, modality="text", signer=signer)
    assert same == payload and provenance.read(payload) is None
    assert provenance.verify(payload, manifest, keys).status == "intact"
    assert provenance.verify(payload + b".", manifest, keys).status == "altered"


def wav(*levels: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(struct.pack(f"<{len(levels)}h", *levels))
    return stream.getvalue()


def test_a_sound_carries_its_manifest_and_a_changed_sample_is_seen(signer: Signer, keys: dict[str, str]) -> None:
    marked, manifest = provenance.attach(wav(1, -2, 300), TRACE, modality="audio", signer=signer)
    assert provenance.read(marked) == manifest and status(marked, keys) == "intact"
    for place in (40, 44, len(wav(1, -2, 300)) - 1):
        assert status(marked[:place] + bytes([marked[place] ^ 1]) + marked[place + 1 :], keys) != "intact"
    stripped = wav(1, -2, 300)
    assert provenance.read(stripped) is None and provenance.verify(stripped, manifest, keys).status == "intact"
    with pytest.raises(ValueError, match="no WAV"):
        provenance.attach(b"RIFF...", TRACE, modality="audio", signer=signer)


def test_a_flipped_pixel_is_seen_and_a_lossless_rewrite_is_not_a_change(signer: Signer, keys: dict[str, str]) -> None:
    for mode in ("L", "RGB", "RGBA"):
        marked, _ = provenance.attach(png(mode), TRACE, modality="image", signer=signer)
        picture = opened(marked)
        note = codec.carried(marked)
        assert note is not None
        assert status(codec.carry(saved(picture, compress_level=0), note), keys) == "intact"
        level = picture.getpixel((9, 9))
        flipped = level ^ 1 if isinstance(level, int) else (level[0] ^ 1, *level[1:])
        picture.putpixel((9, 9), flipped)
        assert status(codec.carry(saved(picture), note), keys) == "altered"


def test_a_palette_and_its_transparency_are_part_of_the_picture(signer: Signer, keys: dict[str, str]) -> None:
    picture = opened(png("RGB")).convert("P", palette=Image.Palette.ADAPTIVE)
    marked, _ = provenance.attach(saved(picture), TRACE, modality="image", signer=signer)
    note = codec.carried(marked)
    assert note is not None and status(marked, keys) == "intact"
    assert status(codec.carry(saved(picture, transparency=0), note), keys) == "altered"
    recoloured = picture.copy()
    recoloured.putpalette([255 - level for level in picture.getpalette() or ()])
    assert status(codec.carry(saved(recoloured), note), keys) == "altered"


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"tRNS", struct.pack(">H", 0)),
        chunk(b"gAMA", struct.pack(">I", 1000)),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        chunk(b"acTL", struct.pack(">II", 1, 0)),
        chunk(b"iDOT", struct.pack(">7I", 2, 0, 4, 40, 4, 4, 60)),
    ],
)
def test_a_chunk_that_shows_the_same_pixels_otherwise_is_a_change(
    added: bytes, signer: Signer, keys: dict[str, str]
) -> None:
    marked, _ = provenance.attach(png(), TRACE, modality="image", signer=signer)
    assert status(marked[:33] + added + marked[33:], keys) == "altered"
    comment = chunk(b"tEXt", b"Comment\0shown by nobody")
    assert status(marked[:33] + comment + marked[33:], keys) == "intact"


@pytest.mark.parametrize(
    "change",
    [
        {"trace": TRACE | {"seed": 8}},
        {"trace": TRACE | {"data": "md5:other.dir"}},
        {"schema": 2},
        {"more": 1},
        {"modality": "text"},
        {"modality": "no such"},
        {"modality": 7},
        {"content": "sha256:" + "0" * 64},
        {"signature": base64.b64encode(b"\0" * 64).decode()},
        {"signature": "AAAA"},
        {"signature": "not base64"},
        {"signature": 7},
        {"key_id": None},
    ],
)
def test_one_changed_field_of_a_manifest_is_seen(
    change: dict[str, object], signer: Signer, keys: dict[str, str]
) -> None:
    marked, manifest = provenance.attach(png(), TRACE, modality="image", signer=signer)
    assert status(with_note(marked, manifest), keys) == "intact"  # written anew, and nothing else
    assert status(with_note(marked, manifest | change), keys) == "altered"


def test_the_manifest_of_one_picture_does_not_fit_another(signer: Signer, keys: dict[str, str]) -> None:
    _, manifest = provenance.attach(png(level=0), TRACE, modality="image", signer=signer)
    assert status(with_note(png(level=9), manifest), keys) == "altered"


def test_another_key_and_a_stripped_signature_are_told_apart(signer: Signer, keys: dict[str, str]) -> None:
    stranger = Signer.of(provenance.new_key())
    forged, manifest = provenance.attach(png(), TRACE, modality="image", signer=stranger)
    assert status(forged, keys) == "unknown key"
    assert status(with_note(forged, manifest | {"key_id": signer.key_id}), keys) == "altered"
    bare = {name: value for name, value in manifest.items() if name not in ("key_id", "signature")}
    assert status(with_note(forged, bare), keys) == "unsigned"
    assert status(saved(opened(forged)), keys) == "unsigned"
    assert status(forged, {stranger.key_id: "no key at all"}) == "altered"


def test_what_is_cut_off_or_coded_anew_is_not_intact(signer: Signer, keys: dict[str, str]) -> None:
    marked, manifest = provenance.attach(png(), TRACE, modality="image", signer=signer)
    for length in range(0, len(marked), 7):
        assert status(marked[:length], keys) in ("unsigned", "altered")
    assert status(marked[:-1], keys) == "altered"
    jpeg = saved(opened(marked), "JPEG")
    assert status(jpeg, keys) == "unsigned"
    assert provenance.verify(jpeg, manifest, keys).status == "altered"


def test_a_flipped_bit_anywhere_is_never_intact_with_another_content_or_trace(
    signer: Signer, keys: dict[str, str]
) -> None:
    marked, manifest = provenance.attach(png(), TRACE, modality="image", signer=signer)
    shown = codec.content(marked)
    for at in range(0, len(marked), 3):
        broken = bytearray(marked)
        broken[at] ^= 1 << at % 8
        held = provenance.read(bytes(broken))
        if provenance.verify(bytes(broken), held, keys).intact:
            assert held == manifest and codec.content(bytes(broken)) == shown


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\x00" * 10_000_000,
        codec.SIGNATURE + chunk(b"junk", b"") * 800_000,
        codec.SIGNATURE + chunk(b"iTXt", codec.NOTE + b"[" * 10_000_000),
        codec.SIGNATURE + chunk(b"iTXt", codec.NOTE + b"[" * 60_000),
        codec.SIGNATURE + chunk(b"iTXt", codec.NOTE + b"\xff\xfe"),
        codec.SIGNATURE + struct.pack(">I", 2**32 - 1) + b"IHDR" + b"\0" * 100,
    ],
    ids=["nothing", "signature", "zeros", "chunks", "large", "deep", "no text", "huge chunk"],
)
def test_junk_is_answered_soon_and_carries_nothing(junk: bytes, keys: dict[str, str]) -> None:
    begun = time.monotonic()
    assert provenance.read(junk) is None and status(junk, keys) == "unsigned"
    assert time.monotonic() - begun < 5


def test_a_bomb_is_not_unpacked(signer: Signer, keys: dict[str, str]) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    bomb = codec.SIGNATURE + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    manifest = provenance.sign_manifest({"modality": "image", "content": "x", "trace": {}}, signer)
    finding = provenance.verify(bomb, manifest, keys)
    assert finding.status == "altered" and ("megapixels" in finding.why or "bomb" in finding.why)


def test_a_manifest_of_files_is_signed_the_same_way(signer: Signer, keys: dict[str, str]) -> None:
    told = {"schema": 1, "files": {"a": "0" * 64}, "requirements": ["torch==2"], "trace": {"data": "md5:d"}}
    signed = provenance.sign_manifest(told, signer)
    assert provenance.verify_manifest(json.loads(json.dumps(signed, indent=2)), keys).intact
    assert provenance.sign_manifest(signed, signer) == signed, "an earlier signature is not signed"
    assert provenance.verify_manifest(signed | {"files": {"a": "1" * 64}}, keys).status == "altered"
    assert provenance.verify_manifest({**signed, "more": float("nan")}, keys).status == "altered"
    assert provenance.verify_manifest(told, keys).status == "unsigned"
    assert provenance.verify_manifest(signed, {}).status == "unknown key"


def test_a_file_that_is_no_key_is_told(tmp_path: Path, signer: Signer) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    other = generate_private_key(SECP256R1()).private_bytes(*form, serialization.NoEncryption())
    locked = generate_private_key(SECP256R1()).private_bytes(*form, serialization.BestAvailableEncryption(b"word"))
    path = tmp_path / "key.pem"
    for content in (b"", b"junk", signer.public_pem.encode(), other, locked):
        path.write_bytes(content)
        with pytest.raises(AtelierError, match=r"key\.pem is no Ed25519 private key"):
            Signer.read(path)
    with pytest.raises(AtelierError, match="cannot be read"):
        Signer.read(tmp_path / "none.pem")
    pem = provenance.new_key()
    path.write_bytes(pem)
    read = Signer.read(path)
    assert read.key_id == Signer.of(pem).key_id == provenance.key_id(read.public_pem) and len(read.key_id) == 16
    assert "PRIVATE" not in repr(read) and "_private" not in repr(read)


def test_attaching_costs_well_under_a_millisecond(signer: Signer) -> None:
    plain = png()
    provenance.attach(plain, TRACE, modality="image", signer=signer)
    took = []
    for _ in range(50):
        begun = time.perf_counter()
        provenance.attach(plain, TRACE, modality="image", signer=signer)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.0003  # 0.08 ms where it was written; the least of many, since the machine is shared


def test_reading_a_manifest_needs_neither_torch_nor_a_vendor() -> None:
    script = "import sys\nfrom components import provenance\nprovenance.read(b'x')\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "components" in loaded
    assert not loaded & {"torch", "mlflow", "prefect", "dvc", "great_expectations", "bentoml", "cryptography"}
