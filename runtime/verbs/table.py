"""All verbs of a device in one visible table, in the order of help; what a verb does is loaded when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from ..benchmark.options import OPTIONS as BENCH
from .verb import BUNDLE, ENGINE, KEY, Answer, Option, Verb


def _later(module: str, function: str) -> Callable[[argparse.Namespace], Answer]:
    """A verb's function, imported when it is first called."""

    def run(arguments: argparse.Namespace) -> Answer:
        answer: Answer = getattr(import_module(module, __package__), function)(arguments)
        return answer

    return run


VERBS: dict[str, Verb] = {
    "predict": Verb(
        text="Answer about images: findings, measurements, masks, boxes.",
        more="An image that cannot be read is told and does not stop the others; the exit code is then 1.",
        options=(
            BUNDLE,
            Option(name="images", type="path", metavar="IMAGE", several=True),
            KEY,
            ENGINE,
            Option(
                name="--masks", type="path", metavar="DIR", help="Write each mask there as a PNG of the image's size."
            ),
        ),
        examples=(
            "foveola predict chest.foveola image.png --key maker.pub",
            "foveola predict chest.foveola *.png --json",
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
        options=(BUNDLE, KEY, ENGINE),
        examples=("foveola selftest chest.foveola --engine openvino",),
        run=_later(".about", "selftest"),
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
}
