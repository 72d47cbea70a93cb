"""The options of the verb `bench`; apart from what it does, so that other verbs do not pay for its imports."""

from __future__ import annotations

from ..verbs.verb import Option

ENERGY_S = 5.0
STARTS = 5

OPTIONS = (
    Option(name="--image", type="path", metavar="IMAGE", help="By default the bundle's first golden image."),
    Option(name="--runs", type="whole", least=1, default=100, metavar="N", help="Timed calls."),
    Option(
        name="--cold", type="whole", least=0, default=STARTS, metavar="N", help="Fresh processes for the cold start."
    ),
    Option(
        name="--idle",
        type="number",
        default=0.0,
        bare=2.0,
        metavar="[S]",
        help="Also 10 calls, each after S seconds of idling (2).",
    ),
    Option(
        name="--sustain",
        type="number",
        default=0.0,
        bare=60.0,
        metavar="[S]",
        help="Also S seconds without a pause (60), with temperature and clock.",
    ),
    Option(
        name="--energy",
        type="number",
        default=ENERGY_S,
        metavar="S",
        help="Joules an image over S seconds, where the machine tells; 0: not.",
    ),
    Option(name="--require-budget", type="flag", help="Exit code 1 unless every line of the budget holds."),
    Option(name="--merge", type="flag", help="Take records instead of a bundle and put them into one table."),
    Option(name="--any-bundle", type="flag", help="With --merge: records of bundles of different names too."),
    Option(name="--out", type="path", metavar="FILE", help="Write the record (JSON) or the table (Markdown) there."),
)
