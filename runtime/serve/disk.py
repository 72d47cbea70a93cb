"""Names of images by their content."""

from __future__ import annotations

import hashlib


def content_digest(data: bytes) -> str:
    """Name an image by its content: sha256 of the file, of a DICOM file without preamble and file meta group.

    The same object gets the same name whether it came as a file or through an association, which makes a file meta of
    its own (PS3.10 7.1: the group's length stands in (0002,0000), its first element).
    """
    return hashlib.sha256(memoryview(data)[_meta_end(data) :]).hexdigest()


def _meta_end(data: bytes) -> int:
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00" or len(data) < 144:
        return 0
    end = 144 + int.from_bytes(data[140:144], "little")
    return end if end < len(data) else 0


def job_id(data: bytes) -> str:
    """Name a job: 32 hexadecimal digits of `content_digest`.

    The content of a DICOM object holds its SOP Instance UID, so one name stands for both; the name tells neither.
    """
    return content_digest(data)[:32]
