"""All verbs of a device in one visible table, in the order of help; what a verb does is loaded when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from ..benchmark.options import OPTIONS as BENCH
from ..serve.options import OPTIONS as SERVE
from .verb import AUDIT, BUNDLE, DICOM_KINDS, ENGINE, KEY, PINNED, ROOT, Answer, Option, Verb


def _later(module: str, function: str) -> Callable[[argparse.Namespace], Answer]:
    """A verb's function, imported when it is first called."""

    def run(arguments: argparse.Namespace) -> Answer:
        answer: Answer = getattr(import_module(module, __package__), function)(arguments)
        return answer

    return run


VERBS: dict[str, Verb] = {
    "predict": Verb(
        text="Answer about images: findings, measurements, masks, boxes, embeddings.",
        more="An image that cannot be read or is not fit is told and does not stop the others; the exit code is 1.",
        options=(
            BUNDLE,
            Option(name="images", type="path", metavar="IMAGE", several=True, help="Image files, or folders of them."),
            KEY,
            ENGINE,
            Option(
                name="--masks", type="path", metavar="DIR", help="Write each mask there as a PNG of the image's size."
            ),
            Option(
                name="--dicom-out",
                type="path",
                metavar="DIR",
                help="Write the answers about DICOM images there as DICOM objects; needs foveola[dicom].",
            ),
            Option(
                name="--dicom-kinds",
                metavar="KINDS",
                help="With --dicom-out: which, of sr (report), seg (masks), sc (picture with overlay), gsps (marks); "
                f"with commas; else {DICOM_KINDS}.",
            ),
        ),
        examples=(
            "foveola predict chest.foveola image.png --key maker.pub",
            "foveola predict chest.foveola *.png --json",
            "foveola predict chest.foveola study.dcm studies/",
            "foveola predict chest.foveola study.dcm --dicom-out results --dicom-kinds sr,seg,sc",
        ),
        run=_later(".predict", "predict"),
    ),
    "inspect": Verb(
        text="Show what a bundle is; nobody's word is taken.",
        more="Needs no key and checks no signature; `verify` does.",
        options=(BUNDLE,),
        examples=("foveola inspect chest.foveola",),
        run=_later(".about", "inspect"),
    ),
    "verify": Verb(
        text="Check who vouches for a bundle; exit code 5 when nobody does.",
        options=(BUNDLE, KEY),
        examples=("foveola verify chest.foveola --key maker.pub",),
        run=_later(".about", "verify"),
    ),
    "selftest": Verb(
        text="Check that a bundle still answers as it did when it was made.",
        more="The golden images go from their bytes to the decisions. With --root the active bundle of a device's "
        "folder is tested and the passed test kept on record; a bundle on trial that fails is left for the other slot.",
        options=(
            Option(
                name="bundle",
                type="path",
                metavar="BUNDLE",
                optional=True,
                help="a .foveola file; left out with --root",
            ),
            KEY,
            ENGINE,
            ROOT,
            Option(
                name="--record",
                type="path",
                metavar="FILE",
                help="Keep the passed test there, and tell what has changed since the one before it.",
            ),
            AUDIT,
        ),
        examples=(
            "foveola selftest chest.foveola --engine openvino",
            "foveola selftest --root /var/lib/foveola --key maker.pub",
        ),
        run=_later(".selftest", "selftest"),
    ),
    "install": Verb(
        text="Put a bundle into the slot of a device's folder that is not in use, tested.",
        more="Signature, product and version are checked first: nothing older goes in where a newer one has lived. "
        "The active slot is not touched; `activate` switches.",
        options=(BUNDLE, ROOT, PINNED, ENGINE, AUDIT),
        examples=("foveola install chest.foveola --root /var/lib/foveola --key maker.pub",),
        run=_later("..slots.verb", "run_install"),
    ),
    "activate": Verb(
        text="Switch to the bundle that was installed, in one step.",
        more="A bundle that never lived here is on trial: started three times without being marked good, it is left "
        "for the other slot.",
        options=(ROOT, PINNED, AUDIT),
        examples=("foveola activate --root /var/lib/foveola --key maker.pub",),
        run=_later("..slots.verb", "run_activate"),
    ),
    "rollback": Verb(
        text="Return to the older bundle in the other slot, in one step.",
        options=(ROOT, PINNED, AUDIT),
        examples=("foveola rollback --root /var/lib/foveola --key maker.pub",),
        run=_later("..slots.verb", "run_rollback"),
    ),
    "slots": Verb(
        text="Show the two slots of a device's folder, or tell how the active bundle fares.",
        more="A service that is not `foveola serve` tells of its start, and that it lives or does not work.",
        options=(
            ROOT,
            Option(name="--start", type="flag", help="A process begins: count a trial's start, and say what to open."),
            Option(name="--good", type="flag", help="The active bundle lives: its trial is over."),
            Option(name="--fail", metavar="WHY", help="The active bundle does not work here: a trial ends at once."),
            AUDIT,
        ),
        examples=("foveola slots --root /var/lib/foveola", "foveola slots --root /var/lib/foveola --good"),
        run=_later("..slots.verb", "run_slots"),
    ),
    "serve": Verb(
        text="Answer as a service: by HTTP on this machine, as a DICOM node, and in a watched folder.",
        more="What was accepted is on disk and is answered once, also after a crash. The engine runs in a process of "
        "its own, which is started anew; after repeated failure the answer is `unavailable`, never a stale score.",
        options=SERVE,
        examples=(
            "foveola serve chest.foveola --key maker.pub",
            "foveola serve --root /var/lib/foveola --key maker.pub --http unix:/run/foveola/http",
            "foveola serve chest.foveola --dicom 0.0.0.0:11112 --caller CR1 --peer PACS@10.0.0.5:104 --kinds sr,seg",
        ),
        run=_later("..serve.verb", "run_serve"),
    ),
    "bench": Verb(
        text="Measure what a bundle costs on this machine: time, memory, energy.",
        more="Cold start, first answer, warm latency and its parts, peak memory and size, held against the budget that "
        "the bundle brings along. With --merge, records of several machines become one table.",
        options=(Option(name="paths", type="path", metavar="BUNDLE", several=True), KEY, ENGINE, *BENCH),
        examples=(
            "foveola bench chest.foveola --runs 200",
            "foveola bench chest.foveola --idle --sustain 1800 --out n100.json",
            "foveola bench --merge n100.json orin.json --out table.md",
        ),
        run=_later("..benchmark.verb", "run_bench"),
    ),
    "build-engine": Verb(
        text="Build the TensorRT engine of a bundle on this machine.",
        more="Takes minutes, once: at installation, never while somebody waits for an answer. The engine is hashed, "
        "put to the bundle's self-test and kept with a record of GPU, driver and TensorRT; one that is there and "
        "passes is kept.",
        options=(
            BUNDLE,
            KEY,
            Option(
                name="--engines",
                type="path",
                metavar="DIR",
                help="Folder of engines; by default FOVEOLA_ENGINES, else NAME.engines beside the bundle.",
            ),
            Option(name="--force", type="flag", help="Build although a good engine is there."),
        ),
        examples=(
            "foveola build-engine chest.foveola --key maker.pub",
            "foveola build-engine chest.foveola --force",
        ),
        run=_later("..tensorrt.verb", "run_build"),
    ),
    "watch": Verb(
        text="Show what a device saw: days, refusals, and drift against the bundle's reference.",
        more="Nothing of a single image is in it, and counts below five are hidden, so that it may leave the device.",
        options=(
            Option(name="action", choices=("show",), help="what to do"),
            Option(name="folder", type="path", metavar="DIR", help="the folder that the service watches into"),
            Option(
                name="--days",
                type="whole",
                least=1,
                default=30,
                metavar="N",
                help="The last days, which are held against the reference, or against the days before them.",
            ),
            Option(name="--html", type="path", metavar="FILE", help="Draw it there; one file, opens offline."),
            Option(name="--out", type="path", metavar="FILE", help="Write it there as JSON, for `foveola field`."),
        ),
        examples=(
            "foveola watch show /var/lib/foveola/watch",
            "foveola watch show /var/lib/foveola/watch --days 7 --html device.html --out device.json",
        ),
        run=_later("..watch.verb", "run_watch"),
    ),
    "audit": Verb(
        text="Check a device's audit log and name the first broken line; exit code 5 when there is one.",
        more="`verify` reads all lines, their seals and the head that names the last one; `show` tells the last lines "
        "and checks nothing.",
        options=(
            Option(name="action", choices=("verify", "show"), help="what to do"),
            Option(name="folder", type="path", metavar="DIR", help="the folder of the log"),
            Option(name="--key", type="path", metavar="FILE", help="The device's key; by default DIR/key."),
            Option(
                name="--head",
                metavar="N:SHA256",
                help="A head that an earlier check told and somebody noted: the log must still hold it.",
            ),
            Option(name="--lines", type="whole", least=1, default=20, metavar="N", help="With `show`: how many."),
        ),
        examples=(
            "foveola audit verify /var/lib/foveola/audit",
            "foveola audit show /var/lib/foveola/audit --lines 5",
        ),
        run=_later("..watch.verb", "run_audit"),
    ),
}
