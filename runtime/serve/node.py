"""The DICOM door: C-ECHO, and C-STORE of images (PS3.4 Annexes A and B), by pynetdicom.

Laws:
- Status 0x0000 is said when the object is on disk and synced, never before.
- What cannot be taken gets a status by which the sender keeps it: 0xA700 full, too large or unavailable, 0xA900 not
  the object that was announced, 0xC000 no data set that can be read.
- Storage classes without a picture, and transfer syntaxes that nobody here decodes, are not negotiated at all.
- A message is bounded in bytes and time before it is kept in memory: also one whose header lies about its length.

The status words are those of PS3.4 B.2.3.
"""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import FoveolaError, MissingPartError
from .desk import Desk
from .jobs import FullError
from .keeper import UnavailableError
from .limits import MIB, Limits

if TYPE_CHECKING:
    from pynetdicom.events import Event
    from pynetdicom.transport import AssociationSocket

OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD, SUCCESS = 0xA700, 0xA900, 0xC000, 0x0000
PDU_BYTES = 256 * 1024  # largest that is offered to the peer
MOST_PDU_BYTES = MIB  # beyond it a length is a lie
PDU_S = 30.0  # for one to come in
TIMEOUT_S = 60.0  # of pynetdicom: association, message, silence

# Images of a camera or an X-ray unit; what the bundle's rule refuses of them is refused by name.
SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, For Processing
    "1.2.840.10008.5.1.4.1.1.1.2",  # Digital Mammography X-Ray, For Presentation
    "1.2.840.10008.5.1.4.1.1.1.3",  # Digital Intra-Oral X-Ray, For Presentation
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.77.1.4",  # VL Photographic
    "1.2.840.10008.5.1.4.1.1.77.1.5.1",  # Ophthalmic Photography 8 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.2",  # Ophthalmic Photography 16 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.5",  # Wide Field Ophthalmic Photography, Stereographic Projection
    "1.2.840.10008.5.1.4.1.1.77.1.5.6",  # Wide Field Ophthalmic Photography, 3D Coordinates
)
# Deflated is not among them: its data set would have to be inflated here, outside the engine's process.
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
)
VERIFICATION = "1.2.840.10008.1.1"


class Node:
    """A DICOM application entity that takes images.

    Args:
        desk: who takes them.
        host: address to listen on.
        port: 0 for any free one.
        aet: its own title; who calls another is rejected.
        callers: titles of those who may call; empty: all.
        limits: of the service.

    Raises:
        MissingPartError: pynetdicom is not installed.
        FoveolaError: the port is taken.
    """

    def __init__(self, desk: Desk, *, host: str, port: int, aet: str, callers: tuple[str, ...], limits: Limits) -> None:
        ae = application_entity(aet)
        ae.maximum_associations, ae.maximum_pdu_size = limits.associations, PDU_BYTES
        ae.require_called_aet, ae.require_calling_aet = True, list(callers)
        ae.add_supported_context(VERIFICATION)
        for sop_class in SOP_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        self._desk, self._limits = desk, limits
        try:
            self._server = ae.start_server((host, port), block=False, evt_handlers=self._handlers())
        except OSError as error:
            place = f"{host or '*'}:{port}"
            raise FoveolaError(place, f"cannot listen: {error.strerror}", "choose another --dicom port") from None
        assert self._server
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        """Take no new association and end those that are open."""
        assert self._server
        self._server.shutdown()

    def _handlers(self) -> list[Any]:
        from pynetdicom import evt

        return [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_ACCEPTED, _fresh),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
        ]

    def _opened(self, event: Event) -> None:
        """Put bounds on what this connection may send; pynetdicom itself believes every length."""
        sock = event.assoc.dul.socket
        if sock is not None:
            setattr(sock, "recv", _Bounded(sock, self._limits).recv)  # noqa: B010 - the type has a method there

    def _echo(self, event: Event) -> int:
        _fresh(event)
        return SUCCESS

    def _store(self, event: Event) -> int | Any:
        _fresh(event)
        data = event.encoded_dataset()  # with preamble and a file meta group of our own
        status = _same_object(event, data)
        if status != SUCCESS:
            return status
        try:
            self._desk.submit(data, "dicom")
        except (FullError, UnavailableError, FoveolaError) as error:
            return _told(OUT_OF_RESOURCES, str(error))
        return SUCCESS


class _Bounded:
    """Reads a peer's bytes within limits of size and time."""

    def __init__(self, sock: AssociationSocket, limits: Limits) -> None:
        self._socket, self._limits = sock, limits
        self.fresh()

    def fresh(self) -> None:
        """Begin to count anew: a message was handled."""
        self._bytes, self._since = 0, 0.0

    def recv(self, count: int) -> bytearray:
        """Give so many bytes, or fewer where the peer closes.

        Raises:
            OSError: more or slower than a message may be; the association ends.
        """
        now = time.monotonic()
        self._since = self._since or now
        self._bytes += count
        if count > MOST_PDU_BYTES or self._bytes > self._limits.image_bytes + MIB:
            raise OSError("a message beyond the limit")
        until = min(now + PDU_S, self._since + self._limits.request_s)
        data, sock = bytearray(), self._socket.socket
        assert sock
        while len(data) < count:
            left = until - time.monotonic()
            if left <= 0:
                raise OSError("a message that takes too long")
            sock.settimeout(left)
            part = sock.recv(min(count - len(data), 65536))
            if not part:
                break
            data += part
        sock.settimeout(TIMEOUT_S)
        return data


def application_entity(aet: str) -> Any:
    """Make an application entity whose library formats no log of what comes and goes.

    Raises:
        MissingPartError: pynetdicom is not installed.
    """
    try:
        from pynetdicom import AE, _config
    except ImportError:
        raise MissingPartError("pynetdicom", "is not installed", "pip install 'foveola[serve]'") from None
    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE(ae_title=aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = TIMEOUT_S
    return ae


def _fresh(event: Event) -> None:
    recv = getattr(event.assoc.dul.socket, "recv", None)
    owner = getattr(recv, "__self__", None)
    if isinstance(owner, _Bounded):
        owner.fresh()


def _same_object(event: Event, data: bytes) -> int | Any:
    """Hold the data set's own class and UID against the request's; only its first elements are read."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial

    try:
        head = read_partial(BytesIO(data), stop_when=lambda tag, vr, length: tag > 0x00080018)
        found = (str(head.get("SOPClassUID", "")), str(head.get("SOPInstanceUID", "")))
    except (InvalidDicomError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, RuntimeError):
        return _told(NOT_UNDERSTOOD, "the data set cannot be read")
    request: Any = event.request
    asked = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
    return SUCCESS if found == asked else _told(MISMATCH, "the data set is another object than the request says")


def _told(status: int, words: str) -> Any:
    """Give a status with its comment: (0000,0902) holds 64 characters."""
    from pydicom.dataset import Dataset

    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = words.encode("ascii", "replace").decode()[:64]
    return answer
