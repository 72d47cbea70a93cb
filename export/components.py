"""The packages that a bundle is made and run with: who supplies them, under which licence, and what they are for.

One table for the bill of materials and for the list of software of unknown provenance (IEC 62304, 3.29). A licence is
the SPDX expression of the package itself; its wheels may carry other people's code under others. The threads are public
ones in which a fault of the component changed answers or memory, each with the lesson drawn from it. They are a choice
and no list of all that is known: the supplier's own list for the version in use has to be read as well.
"""

from __future__ import annotations

import msgspec


class Anomaly(msgspec.Struct, frozen=True):
    """A public thread about a component, its lesson, and what is done about it here."""

    thread: str  # owner/repository#number
    lesson: str
    measure: str


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One package.

    Args:
        supplier: who publishes it.
        licence: SPDX expression.
        purpose: what it is for.
        required: what it has to do on the device; empty: it is not on the device.
        needs: the system that it asks for.
        anomalies: see above.
        purl: kind of package address.
    """

    supplier: str
    licence: str
    purpose: str
    required: str = ""
    needs: str = ""
    anomalies: tuple[Anomaly, ...] = ()
    purl: str = "pypi"


_WIDTH = "weights of 7 bits where the device profile says so; the proof names the processor's instructions; `selftest`"
_LEVEL = "the manifest fixes the level of graph optimisation, and the runtime opens no other"
_SHAPE = "the input has one fixed shape; `bench --sustain` watches time and memory"
_HINT = "the hint f32 is always set, and read back from the compiled model"
_CPU = "the runtime opens the CPU plugin and no other device"
_WITHIN = "the self-test begins with encoded image files and ends with answers, so decoding and scaling are inside"

COMPONENTS: dict[str, Component] = {
    "cryptography": Component(
        supplier="Python Cryptographic Authority",
        licence="Apache-2.0 OR BSD-3-Clause",
        purpose="checks the signature of a bundle",
        required="verifies ECDSA P-256 over SHA-256, and refuses every other signature and key",
        needs="CPython; OpenSSL is inside the wheel",
    ),
    "foveola": Component(
        supplier="Foveola",
        licence="Apache-2.0",
        purpose="reads the bundle, prepares the image, asks the engine, decodes the answer",
        required="answers as in the proof: preprocessing, thresholds and engine settings of the manifest and no others",
        needs="CPython 3.11 or later",
    ),
    "msgspec": Component(
        supplier="Jim Crist-Harif",
        licence="BSD-3-Clause",
        purpose="decodes the manifest",
        required="refuses JSON with unknown, missing or wrongly typed fields",
        needs="CPython",
    ),
    "numpy": Component(
        supplier="NumPy developers",
        licence="BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        purpose="prepares the image and decodes the network's output",
        required="float32 arithmetic of IEEE 754; equal inputs give equal arrays",
        needs="CPython; a processor with SSE4.2 or NEON",
    ),
    "onnxruntime": Component(
        supplier="Microsoft",
        licence="MIT",
        purpose="runs the network (engine)",
        required="runs the graph with the manifest's settings and gives the answers of the self-test within its bands",
        needs="CPython, NumPy; a processor with the instructions on which the proof was made",
        anomalies=(
            Anomaly(
                "microsoft/onnxruntime#5849", "int8 answers differ between processors with and without VNNI", _WIDTH
            ),
            Anomaly("microsoft/onnxruntime#6004", "a 16-bit sum overflows in int8 products on AVX2", _WIDTH),
            Anomaly("microsoft/onnxruntime#14642", "int8 saturates on AVX2 and AVX-512 without VNNI", _WIDTH),
            Anomaly("microsoft/onnxruntime#11576", "int8 accuracy depends on the level of graph optimisation", _LEVEL),
            Anomaly(
                "microsoft/onnxruntime#12638",
                "one calibration table gives another accuracy on another engine",
                "every engine's artefact is proved by itself",
            ),
            Anomaly(
                "microsoft/onnxruntime#19850",
                "a quantised network may lose accuracy when it is exported",
                "every artefact is compared with torch, and the shipped one is proved",
            ),
            Anomaly(
                "microsoft/onnxruntime#11384",
                "a network of short floats answers with NaN",
                "an output with NaN or infinity is a refusal, never a score",
            ),
            Anomaly("microsoft/onnxruntime#11118", "memory grows with changing shapes of the input", _SHAPE),
            Anomaly("onnx/models#568", "int8 answers expected on one processor fail on another", _WIDTH),
        ),
    ),
    "openvino": Component(
        supplier="Intel",
        licence="Apache-2.0",
        purpose="runs the network (engine)",
        required="runs the graph with the manifest's settings and gives the answers of the self-test within its bands",
        needs="CPython, NumPy; a processor with the instructions on which the proof was made",
        anomalies=(
            Anomaly(
                "openvinotoolkit/openvino#25342", "the same int8 graph counts otherwise on older processors", _WIDTH
            ),
            Anomaly(
                "openvinotoolkit/openvino#34673",
                "an int8 network answered by chance on one ARM processor",
                "the self-test holds answers against stored ones, not only that there are some",
            ),
            Anomaly("openvinotoolkit/openvino#37446", "the default precision of an accelerator changed answers", _HINT),
            Anomaly("openvinotoolkit/openvino#37264", "an accelerator was silently wrong", _CPU),
            Anomaly("openvinotoolkit/openvino#38100", "two generations of an accelerator answer differently", _CPU),
            Anomaly("openvinotoolkit/openvino#20633", "memory grows with open shapes of the input", _SHAPE),
        ),
    ),
    "pillow": Component(
        supplier="Jeffrey A. Clark and contributors",
        licence="MIT-CMU",
        purpose="decodes image files",
        required="decodes JPEG and PNG to the pixels of the self-test's images",
        needs="CPython; libjpeg-turbo and zlib are inside the wheel",
        anomalies=(
            Anomaly("python-pillow/Pillow#2718", "scaling differs from that of other libraries", _WITHIN),
            Anomaly("python-pillow/Pillow#6262", "another JPEG decoder changes pixels", _WITHIN),
        ),
    ),
    "python": Component(
        supplier="Python Software Foundation",
        licence="PSF-2.0",
        purpose="interpreter",
        required="runs the runtime",
        needs="an operating system that it supports",
        purl="generic",
    ),
    "onnx": Component(supplier="ONNX contributors", licence="Apache-2.0", purpose="wrote the graph"),
    "scipy": Component(supplier="SciPy developers", licence="BSD-3-Clause", purpose="statistics of the proof"),
    "timm": Component(supplier="Ross Wightman", licence="Apache-2.0", purpose="architecture of the networks"),
    "torch": Component(supplier="PyTorch Foundation", licence="BSD-3-Clause", purpose="trained the networks"),
}
ENGINES = ("onnxruntime", "openvino")
