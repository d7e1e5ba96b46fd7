"""Where a sample came from, signed: a manifest that says which model made it, and whether it is still what was made.

A manifest is JSON: `trace` back to the data, `content`, a digest of the sample, `modality`, and, where it is signed,
`key_id` and `signature`: Ed25519 over the canonical JSON of everything else. A format that can carry it holds it inside
the sample, found by the `carry`, `carried` and `content` of its modality's codec; beside others it travels detached.
The manifest of a Bento is signed the same way.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import JsonValue

from components import modalities
from components.errors import AtelierError

if TYPE_CHECKING:  # a process that neither signs nor verifies does without it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Manifest = dict[str, JsonValue]
Status = Literal["intact", "altered", "unsigned", "unknown key"]
SCHEMA = 1
NOTE_BYTES = 2**16  # of a manifest; what claims to be one and is larger is none


@dataclass(frozen=True)
class Finding:
    """What a check of a signature came to, and one sentence of why."""

    status: Status
    why: str

    @property
    def intact(self) -> bool:
        return self.status == "intact"


@dataclass(frozen=True)
class Signer:
    """An Ed25519 key that signs; `key_id` is 16 hex digits of the sha256 of its raw public key."""

    key_id: str
    public_pem: str
    _private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The private key in a PEM file; an `AtelierError` where there is none, or one of another kind."""
        try:
            return cls.of(path.read_bytes())
        except OSError as error:
            raise AtelierError(f"the key {path} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise AtelierError(f"{path} is no Ed25519 private key in PEM, without a password: {error}.") from None

    @classmethod
    def of(cls, private_pem: bytes) -> Self:
        """The key of that PEM; a `ValueError` where it is none."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            key = serialization.load_pem_private_key(private_pem, password=None)
        except (TypeError, UnsupportedAlgorithm) as error:  # a password is wanted, or a kind that nobody knows
            raise ValueError(" ".join(str(error).split())) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"it is of the kind {type(key).__name__}")
        public = key.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(_named(public.public_bytes_raw()), pem.decode(), key)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes; the same message gives the same signature."""
        return self._private.sign(message)


def new_key() -> bytes:
    """A new private key as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_id(public_pem: str) -> str:
    """The id of a public key; a `ValueError` where the PEM holds no Ed25519 key."""
    return _named(_raw(public_pem))


def public(public_pem: str) -> str:
    """The public key in a PEM, and nothing else that it may hold; a `ValueError` where that is no Ed25519 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(_raw(public_pem))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def signed_by(public_pem: str, signature: bytes, message: bytes) -> bool:
    """Whether that key signed that message; a `ValueError` where the PEM holds no Ed25519 key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(public_pem)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def attach(
    sample: bytes, trace: Mapping[str, JsonValue], *, modality: str, signer: Signer | None
) -> tuple[bytes, Manifest]:
    """The sample with its manifest inside, where its format can carry one, and the manifest.

    The same sample, trace and key give the same bytes. Without a signer the manifest is complete but unsigned.
    """
    codec = modalities.part(modality, "codec")
    manifest: Manifest = {
        "schema": SCHEMA,
        "modality": modality,
        "trace": dict(trace),
        "content": content(sample, modality),
    }
    if signer is not None:
        manifest = sign_manifest(manifest, signer)
    return (codec.carry(sample, canonical(manifest)) if hasattr(codec, "carry") else sample), manifest


def read(payload: bytes) -> Manifest | None:
    """The manifest that a sample of any modality carries; None where it carries none. Nothing of it is verified."""
    for name in modalities.names():
        codec = modalities.part(name, "codec")
        note = codec.carried(payload) if hasattr(codec, "carried") else None
        if note is not None and (manifest := parsed(note)) is not None:
            return manifest
    return None


def verify(payload: bytes, manifest: Mapping[str, JsonValue] | None, keys: Mapping[str, str]) -> Finding:
    """Whether a sample is what its manifest was signed for; `keys` are public keys in PEM, by their id."""
    if manifest is None:
        return Finding("unsigned", "it carries no manifest: it was never signed, or its signature was taken off")
    modality, told = manifest.get("modality"), manifest.get("content")
    if not isinstance(modality, str) or modality not in modalities.names() or not isinstance(told, str):
        return Finding("altered", "its manifest names no modality or no digest that Atelier writes")
    try:
        found = content(payload, modality)
    except Exception as error:  # noqa: BLE001 - hostile bytes make a decoder raise anything at all
        return Finding(
            "altered", f"its content cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
        )
    if found != told:
        return Finding("altered", "its content is not what its manifest was made for")
    return verify_manifest(manifest, keys)


def content(payload: bytes, modality: str) -> str:
    """The digest of what a sample shows, as its manifest names it; a decoder's own errors where it shows nothing."""
    codec = modalities.part(modality, "codec")
    covered: bytes = codec.content(payload) if hasattr(codec, "content") else payload
    return f"sha256:{hashlib.sha256(covered).hexdigest()}"


def sign_manifest(manifest: Mapping[str, JsonValue], signer: Signer) -> Manifest:
    """The manifest with `key_id` and `signature`, base64 over the canonical JSON of all the rest, `key_id` included."""
    named: Manifest = {**_unsigned(manifest), "key_id": signer.key_id}
    return {**named, "signature": base64.b64encode(signer.sign(canonical(named))).decode()}


def verify_manifest(manifest: Mapping[str, JsonValue], keys: Mapping[str, str]) -> Finding:
    """Whether a manifest is as it was signed, by one of `keys`; what it says of other bytes is not looked at."""
    named, signature = manifest.get("key_id"), manifest.get("signature")
    if named is None and signature is None:
        return Finding("unsigned", "its manifest bears no signature")
    if not isinstance(named, str) or not isinstance(signature, str):
        return Finding("altered", "its manifest bears half a signature")
    if named not in keys:
        return Finding("unknown key", f"it is signed by the key {named[:64]!r}, which is none of the known ones")
    try:
        good = signed_by(keys[named], base64.b64decode(signature, validate=True), canonical(_unsigned(manifest)))
    except (binascii.Error, ValueError, RecursionError) as error:
        return Finding("altered", f"its signature cannot be checked ({error})")
    if not good:
        return Finding("altered", f"its manifest was changed since the key {named} signed it")
    return Finding("intact", f"it is as it was when the key {named} signed it")


def canonical(value: Mapping[str, JsonValue]) -> bytes:
    """JSON with sorted keys and no spaces, all in ASCII: the one form that is signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parsed(note: bytes) -> Manifest | None:
    """The manifest in some JSON; None where it is none: no JSON, no object, or larger than any that is written."""
    if len(note) > NOTE_BYTES:
        return None
    try:
        value = json.loads(note)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _unsigned(manifest: Mapping[str, JsonValue]) -> Manifest:
    return {name: value for name, value in manifest.items() if name != "signature"}


def _raw(public_pem: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(public_pem.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(" ".join(str(error).split())) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"a public key of the kind {type(key).__name__} is no Ed25519 key")
    return key.public_bytes_raw()


def _named(raw_public: bytes) -> str:
    return hashlib.sha256(raw_public).hexdigest()[:16]
