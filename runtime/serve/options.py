"""The options of the verb `serve`; apart from what it does, so that other verbs do not pay for its imports."""

from __future__ import annotations

from ..verbs.verb import ENGINE, KEY, ROOT, Option

HTTP = "127.0.0.1:8471"
AET = "FOVEOLA"
KINDS = "sr"

OPTIONS = (
    Option(name="bundle", type="path", metavar="BUNDLE", optional=True, help="a .foveola file; left out with --root"),
    ROOT,
    KEY,
    ENGINE,
    Option(name="--state", type="path", metavar="DIR", help="Queue, answers and results on disk; else BUNDLE.state."),
    Option(
        name="--http",
        metavar="ADDRESS",
        default=HTTP,
        help="unix:PATH, or a port on loopback such as 127.0.0.1:8471; off for none.",
    ),
    Option(name="--inbox", type="path", metavar="DIR", help="Watch this folder: answers go to DIR/done, DIR/failed."),
    Option(
        name="--dicom",
        metavar="[HOST:]PORT",
        help="Take DICOM objects there; a port alone is on loopback, 0.0.0.0:PORT is open to the network.",
    ),
    Option(name="--aet", metavar="TITLE", help=f"With --dicom or --peer: own application entity title, else {AET}."),
    Option(
        name="--caller",
        metavar="TITLE",
        several=True,
        help="With --dicom: only these titles may call; may be given again.",
    ),
    Option(name="--peer", metavar="AET@HOST:PORT", help="Send DICOM results there."),
    Option(
        name="--kinds",
        metavar="KINDS",
        help=f"With --peer: which results, of sr, seg, sc, gsps, with commas; else {KINDS}.",
    ),
    Option(name="--watch", type="path", metavar="DIR", help="Count by day what is seen; see `foveola watch`."),
    Option(name="--audit", type="path", metavar="DIR", help="Keep a sealed log of what happened; see `foveola audit`."),
    Option(name="--queue", type="whole", least=1, default=256, metavar="N", help="Images that may wait on disk."),
    Option(name="--deadline", type="number", default=30.0, metavar="S", help="Seconds for one image."),
    Option(name="--max-image", type="whole", least=1, default=256, metavar="MIB", help="Largest image."),
    Option(
        name="--max-memory",
        type="whole",
        least=0,
        default=0,
        metavar="MIB",
        help="Start the engine's process anew above it; 0 for no limit.",
    ),
)
