"""An engine's process that does what an image's bytes say: crash, hang, refuse, unfit; all else is answered.

`PICTURE@UID` is a DICOM object with that picture and UID, whatever else follows.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from foveola.runtime.serve.frames import Answering, Refused, Source, Started, Told, read_ask, write_frame

BUNDLE = Answering(name="tiny", version="1", digest="d" * 64, engine="onnxruntime")


def main(log: str) -> None:
    if Path(log + ".broken").exists():
        write_frame(sys.stdout.buffer, Refused(error="tiny: the self-test failed", exit_code=1))
        return
    write_frame(sys.stdout.buffer, Started(bundle=BUNDLE, images=1, manifest=""))
    while (frame := read_ask(sys.stdin.buffer)) is not None:
        ask, image = frame
        words = image.decode()
        with open(log, "a") as file:  # noqa: PTH123
            file.write(words + "\n")
        if words.startswith("crash"):
            os._exit(3)
        if words.startswith("hang"):
            time.sleep(60)
        if words.startswith("slow"):
            time.sleep(0.2)
        results: tuple[str, ...] = ()
        source: Source | None = None
        if ask.results:
            picture, _, uid = words.partition(" ")[0].partition("@")
            source = Source(uid=uid, picture=picture) if uid else None
            results = (f"{uid or words}.dcm",)
            (Path(ask.results) / results[0]).write_bytes(words.encode())
        if words.startswith("refuse"):
            write_frame(sys.stdout.buffer, Refused(error="image: cannot be read", exit_code=1, digest=BUNDLE.digest))
        else:
            answer = msgspec.Raw(msgspec.json.encode({"of": words}))
            outcome = "unfit" if words.startswith("unfit") else "answered"
            write_frame(
                sys.stdout.buffer,
                Told(
                    bundle=BUNDLE,
                    answer=answer,
                    outcome=outcome,
                    results=results,
                    source=source,
                    seconds=0.01,
                    memory_mib=50.0,
                ),
            )


if __name__ == "__main__":
    main(sys.argv[1])
