"""A bench record in words: one line a figure, for the terminal."""

from __future__ import annotations

from ..manifest import EngineOptions, OnnxRuntimeOptions, TensorRtOptions
from ..measure import Latency
from .record import Bench, BudgetLine, ColdStart, Energy, Memory, Sustained


def record_lines(record: Bench) -> list[str]:
    """Write a record in lines, what was not measured left out."""
    bundle, engine = record.bundle, record.engine
    lines = [
        f"{bundle.name} {bundle.version} ({engine.arithmetic}) on {engine.engine} {engine.version}",
        f"  machine          {machine_words(record)}",
        f"  settings         {settings_words(engine.settings)}",
    ]
    lines += _cold(record.cold_start) if record.cold_start else []
    lines.append(_times("end to end", record.end_to_end))
    lines += [_times(f"  {name}", getattr(record.phases, name)) for name in record.phases.__struct_fields__]
    lines.append(_times("engine alone", record.engine_alone))
    if record.after_idle:
        lines.append(_times("after idling", record.after_idle.latency) + f" (of {record.after_idle.pause_s:g} s)")
    lines += [_sustained(record.sustained)] if record.sustained else []
    lines += [_memory(record.memory)] if record.memory.peak_mib is not None else []
    lines.append(
        f"  package          {bundle.bundle_bytes / 1e6:.2f} MB, of it graph {bundle.graph_bytes / 1e6:.2f} MB"
    )
    lines += [_energy(record.energy)] if record.energy else []
    lines += [_budget(line, bundle.device) for line in record.budget]
    return lines + [f"  note             {note}" for note in record.notes]


def machine_words(record: Bench) -> str:
    """Name the kind of machine in one line."""
    machine = record.machine
    name = machine.board or machine.processor
    mode = "".join(f", {word}" for word in (machine.governor, machine.power_mode) if word)
    return f"{name}, {machine.cores} cores{mode}, {machine.system}"


def settings_words(options: EngineOptions) -> str:
    """Name the manifest's settings that decide speed."""
    if isinstance(options, TensorRtOptions):
        return f"{options.arithmetic}, TF32 off"
    threads = f"{options.threads} {'thread' if options.threads == 1 else 'threads'}"
    words = [threads, "pinned" if options.pinned else "not pinned"]
    if isinstance(options, OnnxRuntimeOptions):
        words.append("spinning" if options.spinning else "not spinning")
    else:
        words += [options.plugin, options.inference_precision]
    return ", ".join(words)


def _times(name: str, times: Latency) -> str:
    return f"  {name:<16} median {times.median_ms:.2f} ms, 95 % {times.p95_ms:.2f}, 99 % {times.p99_ms:.2f}"


def _cold(cold: ColdStart) -> list[str]:
    parts = {
        "Python": cold.interpreter,
        "imports": cold.imports,
        "engine's library": cold.engine_import,
        "load and verify": cold.load,
        "open": cold.open,
        "first answer": cold.first_answer,
    }
    words = ", ".join(f"{name} {part.median_ms:.0f}" for name, part in parts.items())
    total = cold.total
    return [
        f"  cold start       median {total.median_ms:.0f} ms of {cold.starts}, "
        f"{total.least_ms:.0f} to {total.most_ms:.0f}",
        f"                   {words} ms",
        f"  first answer     {cold.first_answer.median_ms:.2f} ms, the second {cold.second_answer.median_ms:.2f}",
    ]


def _sustained(seen: Sustained) -> str:
    heat = "" if seen.hottest_c is None else f", up to {seen.hottest_c:.0f} °C"
    clock = "" if seen.slowest_clock_mhz is None else f", clock down to {seen.slowest_clock_mhz:.0f} MHz"
    throttled = f", throttled {seen.throttled} times" if seen.throttled else ""
    return (
        f"  sustained        {seen.seconds:.0f} s, first tenth {seen.first_ms:.2f} ms, last {seen.last_ms:.2f}, "
        f"{seen.images_per_s:.1f} images a second{heat}{clock}{throttled}"
    )


def _memory(seen: Memory) -> str:
    bare = "" if seen.bare_mib is None else f", {seen.beyond_bare_mib:.0f} beyond Python's {seen.bare_mib:.0f}"
    return f"  peak memory      {seen.peak_mib:.0f} MiB{bare}"


def _energy(seen: Energy) -> str:
    watts = f"{seen.busy_watts:.1f} W against {seen.idle_watts:.1f} W, {seen.source}"
    above = f"{seen.joules_per_image_above_idle:.3g} above idling"
    return f"  energy           {seen.joules_per_image:.3g} J an image, {above} ({watts})"


def _budget(line: BudgetLine, device: str) -> str:
    verdict = "not measured" if line.holds is None else "holds" if line.holds else "OVER"
    got = "" if line.measured is None else f"{line.measured:.4g} of "
    return f"  budget           {line.what:<19} {got}{line.limit:g} {line.unit} ({device}): {verdict}"
