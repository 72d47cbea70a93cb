"""The engine's process: opens the bundle, passes the self-test, then answers one image after the other.

    python -m foveola.runtime.serve.child JSON

JSON is a `Command`.

Laws:
- Nothing is answered before the signature held and the self-test passed.
- It lives as long as its standard input is open: where the service is gone, it goes, also in the middle of an answer.
- What an engine prints goes to stderr; only messages (`frames.py`) leave on stdout.
- Ctrl-C reaches every process of a terminal; it is the service that ends this one, when nobody waits any more.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bundle import MANIFEST, Bundle, open_bundle
from ..engine import Tensor
from ..errors import FoveolaError, MissingPartError
from ..features import input_features
from ..golden import GOLDEN, pixel_digest
from ..measure import rss_mib
from ..offline import forbid_telemetry
from ..predict import Predictor, choose_engine, engine_files
from ..prediction import Prediction, prediction_json
from ..source import open_source
from ..tested import require_passed, run_self_test
from ..verbs.verb import to_stderr
from ..watch.observe import Seen, observe
from .frames import Answering, Ask, Command, Refused, Source, Started, Told, read_ask, write_frame
from .quiet import quiet_libraries


def main(words: str) -> None:
    """Tell that it started, or why not, and answer until standard input ends."""
    command = msgspec.json.decode(words, type=Command, dec_hook=lambda kind, value: kind(value))
    out = _messages_only()
    _leave_ctrl_c_to_the_service()
    forbid_telemetry()
    quiet_libraries()
    asks = _listen(sys.stdin.buffer)
    try:
        bundle, predictor, started = _open_and_start(command)
    except FoveolaError as error:
        write_frame(out, _refused(error, "", device=True))
        return
    write_frame(out, started)
    while True:
        ask, payload = asks.get()
        write_frame(out, answer(predictor, bundle, ask, payload, watched=command.watched))


class Seeing(Predictor):
    """A predictor that remembers the last prepared image, so that it need not be prepared twice to be described."""

    seen: Tensor | None = None  # (1, C, H, W)

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        """Remember and run."""
        self.seen = tensor
        return super().run(tensor)


def answer(predictor: Seeing, bundle: Bundle, ask: Ask, payload: bytes, *, watched: bool) -> Told | Refused:
    """Answer about one image; what is wrong with it is told in the words of the command line."""
    begun, predictor.seen = time.perf_counter(), None
    try:
        prediction = predictor.predict(payload, "image")
    except MissingPartError as error:
        return _refused(error, bundle.digest, device=True)
    except FoveolaError as error:
        return _refused(error, bundle.digest)
    try:
        files, about = _results(payload, prediction, predictor, bundle, ask) if ask.results else ((), None)
    except FoveolaError as error:
        return _refused(error, bundle.digest, device=True)
    return Told(
        bundle=_answering(predictor, bundle),
        answer=msgspec.Raw(msgspec.json.encode(prediction_json(prediction))),
        outcome="answered" if prediction.quality is None or prediction.quality.fit else "unfit",
        results=files,
        source=about,
        seconds=time.perf_counter() - begun,
        memory_mib=rss_mib(),
        seen=_seen(prediction, predictor) if watched else None,
    )


def _open_and_start(command: Command) -> tuple[Bundle, Seeing, Started]:
    """Open the bundle and start it; a bundle on trial that does not pass is left for the other slot, which is started.

    Raises:
        FoveolaError: it does not open or pass, and there is no other to start.
    """
    if command.root is None:
        files = engine_files(command.engine)
        bundle = open_bundle(command.bundle, key=command.key, only=lambda manifest: (GOLDEN, *files(manifest)))
        return _start(bundle, command.engine, command)
    from ..slots.power_on import leave_trial

    bundle, engine = _power_on(command.root, command)
    choose_engine(bundle.manifest, engine)  # an option that does not fit is no fault of the bundle
    try:
        return _start(bundle, engine, command)
    except FoveolaError as error:
        if not leave_trial(command.root, error, "selftest", to_stderr, command.audit):
            raise
    bundle, engine = _power_on(command.root, command)
    return _start(bundle, engine, command)


def _power_on(root: Path, command: Command) -> tuple[Bundle, str | None]:
    """Open the active slot's bundle, which falls back to the other slot by itself; and name its engine."""
    from ..slots.power_on import power_on
    from ..slots.state import read_state

    bundle, state = power_on(root, key=command.key, say=to_stderr, audit=command.audit), read_state(root)
    slot = state.slot(state.active)
    return bundle, command.engine or (slot.engine if slot else None)


def _start(bundle: Bundle, engine: str | None, command: Command) -> tuple[Bundle, Seeing, Started]:
    """Run the self-test, at each start of this process, make the predictor, and load what the first image needs.

    The bundle that is given back holds its manifest alone: the engine has the rest.
    """
    outcome, _ = run_self_test(bundle, engine=engine, record=command.record, say=to_stderr)
    require_passed(bundle, outcome)
    predictor = Seeing(bundle, outcome.engine)
    if command.dicom or command.results:
        import_module("..dicom.read", __package__)
    if command.results:
        from ..dicom_results.write import require_parts

        require_parts()
    manifest = bundle.members[MANIFEST]
    started = Started(bundle=_answering(predictor, bundle), images=outcome.images, manifest=manifest.decode())
    return msgspec.structs.replace(bundle, members={MANIFEST: manifest}), predictor, started


def _answering(predictor: Predictor, bundle: Bundle) -> Answering:
    manifest = bundle.manifest
    return Answering(name=manifest.name, version=manifest.version, digest=bundle.digest, engine=predictor.engine)


def _results(
    data: bytes, prediction: Prediction, predictor: Predictor, bundle: Bundle, ask: Ask
) -> tuple[tuple[str, ...], Source | None]:
    """Write the DICOM results of a DICOM image; give their names and what they are about. Of another there are none."""
    source = open_source(data, bundle.manifest.input, bundle.manifest.source, "image")
    if source.dataset is None:
        return (), None
    from ..dicom.tags import Tags, quiet
    from ..dicom_results.identity import identity_of
    from ..dicom_results.write import write_results

    identity, folder = identity_of(bundle, f"{predictor.engine} {predictor.arithmetic}"), Path(ask.results)
    paths = write_results(
        source.dataset, prediction, identity, ask.kinds, folder, picture=source.picture, place="image"
    )
    with quiet():
        uid = Tags(source.dataset, "image").text("SOPInstanceUID")
    picture = pixel_digest(np.asarray(source.picture)).tobytes().hex()
    return tuple(path.name for path in paths), Source(uid=sha256(uid.encode()).hexdigest(), picture=picture)


def _seen(prediction: Prediction, predictor: Seeing) -> Seen:
    x_BCHW = predictor.seen
    if x_BCHW is None or x_BCHW.dtype != np.float32:  # unfit, or a detector's words
        return observe(prediction, predictor.manifest)
    return observe(prediction, predictor.manifest, input_features(x_BCHW[0].astype(np.float32, copy=False)))


def _messages_only() -> BinaryIO:
    """Keep standard output for messages: what is printed from now on, also by native code, goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def _leave_ctrl_c_to_the_service() -> None:
    for name in ("SIGINT", "SIGBREAK"):  # the second is Windows'
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _listen(stream: BinaryIO) -> queue.Queue[tuple[Ask, bytes]]:
    """Read questions in a thread of its own, which ends this process when the service is gone."""
    asks: queue.Queue[tuple[Ask, bytes]] = queue.Queue(1)

    def listen() -> None:
        try:
            while (frame := read_ask(stream)) is not None:
                asks.put(frame)
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True, name="listen").start()
    return asks


def _refused(error: FoveolaError, bundle_digest: str, *, device: bool = False) -> Refused:
    return Refused(error=str(error), exit_code=int(error.exit_code), digest=bundle_digest, device=device)


if __name__ == "__main__":
    main(sys.argv[1])
