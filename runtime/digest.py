"""SHA-256 by the library that checks the signature: Python's own would load a second OpenSSL, of 3.5 MiB."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256, Hash


class Sha256:
    """A digest of what comes bit by bit."""

    def __init__(self) -> None:
        self._hash = Hash(SHA256())

    def update(self, data: bytes | memoryview) -> None:
        """Take some more bytes."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Give the digest in hexadecimal; nothing can be added afterwards."""
        return self._hash.finalize().hex()


def sha256_hex(data: bytes | memoryview) -> str:
    """Take the digest of some bytes in hexadecimal."""
    whole = Sha256()
    whole.update(data)
    return whole.hexdigest()
