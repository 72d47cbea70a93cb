"""Who answered, and the names (UIDs) of what is written about an image.

Law: a name is derived from the source's SOP Instance UID, the bundle's digest and the engine, never drawn by chance, so
that the same picture answered again gives the same names and an archive that has the object already keeps one of it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ..bundle import Bundle

MANUFACTURER = "Foveola"
# Name-based UUIDs (RFC 9562, 5.5) under this one; a UID is "2.25." and the UUID as an integer (PS3.5 B.2).
NAMESPACE = uuid.UUID("6f1b9c0e-6a0f-5d3c-9a53-0f0e01a70b1e")


class BundleIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The algorithm as a report names it.

    Args:
        name: of the bundle.
        version: of the bundle.
        digest: sha256 over the bundle's members, as `Bundle.digest` has it.
        engine: that ran it and with which arithmetic, like `onnxruntime int8`; may be empty.
    """

    name: str
    version: str
    digest: str
    engine: str = ""


def identity_of(bundle: Bundle, engine: str = "") -> BundleIdentity:
    """Name a bundle, and the engine that ran it."""
    manifest = bundle.manifest
    return BundleIdentity(name=manifest.name, version=manifest.version, digest=bundle.digest, engine=engine)


def derived_uid(identity: BundleIdentity, *parts: str) -> str:
    """Derive a UID of at most 44 characters from who answered and from what the name is for."""
    text = "\n".join((identity.digest, identity.engine, *parts))
    return f"2.25.{uuid.uuid5(NAMESPACE, text).int}"
