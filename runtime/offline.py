"""Keep the engines from reporting home: call `forbid_telemetry` before an engine is imported.

What they do otherwise, tried on Linux with the wheels of the package index:

- ONNX Runtime 1.31 gives the device a lasting number under the home directory when it is imported, and uploads
  process, session and model events from native code, where no Python hook sees the socket;
- `import openvino` writes a client number to the home directory, and its converter and NNCF send usage events.

A switch that is thrown after the import comes too late: the decision is made once a process.
"""

from __future__ import annotations

import os
import sys

SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "NNCF_CI": "1"}


def forbid_telemetry() -> None:
    """Throw every engine's own switch, for this process and those it starts; harmless to repeat."""
    os.environ.update(SWITCHES)
    # OpenVINO and NNCF do without this package when it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
