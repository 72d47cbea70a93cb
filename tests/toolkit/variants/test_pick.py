"""Which form ships: by margin first, then by time, and with preference where times are equal; and the reasons."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foveola.devices.finding import Finding
from foveola.devices.profile import load_profile
from foveola.devices.roofline import LayerWork
from foveola.toolkit.variants.pick import TIE, Variant, causes, choose
from foveola.toolkit.variants.table import variant_lines, variant_table
from foveola.toolkit.variants.timing import Timing

REFUSED = Finding(rule="opset", severity="error", place="g", fault="opset 21 is too new", mend="export with opset 18")
WARNED = Finding(rule="channels", severity="warning", place="g", fault="odd channels", mend="")
INT8, FLOAT = "onnxruntime int8", "onnxruntime float32"


def form(name: str, ms: float | None, slack: float | None = 1.0, source: Any = "measured", **others: Any) -> Variant:
    engine, arithmetic, *quantiser = name.split()
    default = "portable" if arithmetic == "int8" else "none"
    timing = Timing(ms=ms, source=source if ms is not None else "unknown")
    return Variant(
        name=name, engine=engine, arithmetic=arithmetic, quantiser=quantiser[0] if quantiser else default,  # type: ignore[arg-type]
        timing=timing, slack=slack, worst_task="findings", **others,
    )  # fmt: skip


def shipped(*variants: Variant, **knobs: Any) -> list[str]:
    return [one.name for one in choose(variants, **knobs) if one.chosen]


def fate(name: str, *variants: Variant, **knobs: Any) -> str:
    (found,) = [one for one in choose(variants, **knobs) if one.name == name]
    return found.why


@pytest.mark.parametrize(
    ("int8", "float32", "winner"),
    [
        (1.0, 9.0, INT8),
        (10.0, 10.0, INT8),
        (10.0, 10.0 * (1 - TIE) + 0.001, INT8),  # as fast within the tie: the preferred
        (10.0, 10.0 * (1 - TIE) - 0.001, FLOAT),
        (10.0, 2.0, FLOAT),
    ],
)
def test_int8_that_is_slower_than_float_by_more_than_a_tie_never_ships(
    int8: float, float32: float, winner: str
) -> None:
    assert shipped(form(INT8, int8), form(FLOAT, float32)) == [winner]


@pytest.mark.parametrize("ms", [0.1, 5.0, 50.0])
def test_a_form_that_loses_a_margin_never_ships_while_another_keeps_it_however_fast_it_is(ms: float) -> None:
    variants = form(INT8, ms, slack=-0.01), form(FLOAT, 10.0, slack=0.0)

    assert shipped(*variants) == [FLOAT]
    assert shipped(*variants, by_time=False) == [FLOAT]
    assert fate(INT8, *variants) == "findings loses 1.0 times its margin on the validation images"


def test_where_none_keeps_its_margins_the_one_that_loses_least_ships_and_says_so() -> None:
    variants = form(INT8, 1.0, slack=-2.0), form(FLOAT, 10.0, slack=-0.5)

    assert shipped(*variants) == [FLOAT]
    assert fate(FLOAT, *variants).startswith("no form keeps its margins; this one loses least (findings loses 1.5")


def test_the_first_by_preference_ships_among_those_within_a_tie_of_the_fastest() -> None:
    # The first of all is clearly slower; between the other two noise would decide.
    slow, preferred, luckier = (
        form("openvino int8", 10.0), form("openvino int8 nncf", 5.0), form("openvino float32", 4.9),
    )  # fmt: skip

    assert shipped(slow, preferred, luckier) == ["openvino int8 nncf"]
    assert fate("openvino float32", slow, preferred, luckier).startswith("as fast as openvino int8 nncf within 5 %")


def test_no_reason_for_a_loss_calls_the_winner_preferred_where_it_is_not() -> None:
    # Any two within a tie: the winner stands before the loser.
    for times in [(10.0, 5.0, 4.9), (10.0, 9.7, 9.4), (3.0, 10.0, 3.1), (10.0, 9.8, 9.6), (5.2, 5.1, 4.96)]:
        names = "openvino int8", "openvino int8 nncf", "openvino float32"
        variants = [form(name, ms) for name, ms in zip(names, times, strict=True)]

        (winner,) = shipped(*variants)

        for loser in choose(variants):
            if "which is preferred" in loser.why or "and larger" in loser.why:
                assert names.index(winner) < names.index(loser.name), times


def test_a_refused_form_never_ships_and_names_the_rule() -> None:
    variants = form(INT8, 0.1, findings=(WARNED, REFUSED)), form(FLOAT, 10.0, findings=(WARNED,))

    assert shipped(*variants) == [FLOAT]
    assert fate(INT8, *variants) == "the device refuses it: opset 21 is too new"


def test_a_refused_form_does_not_ship_even_where_no_other_keeps_its_margins() -> None:
    assert shipped(form(INT8, 0.1, findings=(REFUSED,)), form(FLOAT, 10.0, slack=-9.0)) == [FLOAT]


def test_each_engine_ships_one_form_and_is_not_held_against_another() -> None:
    variants = (form("openvino int8", 9.0), form("openvino float32", 3.0), form(INT8, 1.0), form(FLOAT, 2.0))

    assert shipped(*variants) == ["openvino float32", INT8]


def test_times_do_not_count_where_the_first_by_preference_is_asked_for() -> None:
    variants = form(INT8, 9.0), form(FLOAT, 1.0)

    assert shipped(*variants, by_time=False) == [INT8]
    assert fate(FLOAT, *variants, by_time=False) == f"{INT8} is preferred"


def test_a_form_that_nobody_could_ask_counts_as_keeping_and_one_without_a_time_as_preferred() -> None:
    assert shipped(form("tensorrt int8", None, slack=None), form("tensorrt float16", None, slack=None)) == [
        "tensorrt int8"
    ]
    assert fate("tensorrt float16", form("tensorrt int8", None), form("tensorrt float16", None)) == (
        "no time is known; tensorrt int8 is preferred"
    )


def test_every_form_ships_or_says_in_words_why_not() -> None:
    times, slacks = (None, 1.0, 1.02, 9.0), (None, 1.0, -1.0)
    for ms in times:
        for other in times:
            for slack in slacks:
                for by_time in (True, False):
                    made = choose((form(INT8, ms, slack), form(FLOAT, other)), by_time=by_time)
                    assert all(one.why for one in made)
                    assert sum(one.chosen for one in made) == 1


def test_the_words_of_a_choice_say_whether_its_time_was_measured() -> None:
    assert "the fastest here" in fate(INT8, form(INT8, 1.0), form(FLOAT, 2.0))
    assert "by the roofline" in fate(INT8, form(INT8, 1.0, source="predicted"), form(FLOAT, 2.0, source="predicted"))
    (line, _) = variant_lines(choose((form(INT8, 1.0, source="predicted"), form(FLOAT, 2.0, source="predicted"))))
    assert line.startswith(f"{INT8}: ships: ")


def layers(*widths: tuple[int, int], macs: int = 5_000_000) -> list[LayerWork]:
    return [
        LayerWork(name=f"l{i}", operator="Conv", arithmetic="int8", macs=macs, bytes_moved=1, channels=pair)
        for i, pair in enumerate(widths)
    ]


def test_the_causes_of_slowness_are_those_that_the_profile_and_the_graph_show() -> None:
    wide, legacy, pi, kria = (load_profile(name) for name in ("generic-x86", "x86-avx2-legacy", "rpi5-8gb", "kria-k26"))

    assert causes("int8", layers((16, 32)), wide, 0) == ()
    assert causes("int8", layers((16, 32)), pi, 0) == ()
    assert causes("int8", layers((16, 32)), legacy, 0) == ("no VNNI: products of bytes are summed in 16 bits",)
    assert causes("int8", layers((16, 32)), kria, 0)[0].startswith("no dot product instruction")
    assert causes("int8", layers((16, 33), (16, 16)), wide, 0) == ("channels not a multiple of 16 in 1 of 2 layers",)
    assert causes("int8", layers(*[(16, 16)] * 4, (3, 16)), wide, 0) == ()  # a stem alone slows nothing
    assert causes("int8", layers((0, 0), macs=200_000), wide, 0) == (
        "small layers (median 0.20 million multiply-adds)",
    )
    assert causes("int8", layers((16, 16)), wide, 3) == ("3 conversions between integers and float",)
    assert causes("float16", layers((16, 33)), legacy, 9) == ("channels not a multiple of 8 in 1 of 1 layers",)
    assert causes("float32", layers((5, 33), macs=2), legacy, 99) == ()


def test_a_slow_form_says_how_slow_and_all_the_causes() -> None:
    why = ("no VNNI: products of bytes are summed in 16 bits", "channels not a multiple of 16 in 9 of 9 layers")
    variants = form(INT8, 15.0, causes=why), form(FLOAT, 10.0)

    assert fate(INT8, *variants) == f"1.5 times slower than {FLOAT}: {'; '.join(why)}"


def test_the_table_shows_the_figures_and_the_lines_say_why() -> None:
    made = choose((form(INT8, 1.0, size_bytes=2_500_000), form(FLOAT, None, slack=None, size_bytes=9_000_000)))

    rows = list(zip(*(column.cells for column in variant_table(made).columns), strict=True))
    assert rows == [(INT8, "2.50", "1.00", "-", "-", "1.00"), (FLOAT, "9.00", "-", "-", "-", "-")]
    assert [line.split(":")[0] for line in variant_lines(made)] == [INT8, FLOAT]
    assert msgspec.json.decode(msgspec.json.encode(made), type=tuple[Variant, ...]) == made
