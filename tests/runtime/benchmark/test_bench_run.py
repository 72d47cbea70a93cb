"""One record of what a bundle costs: complete, honest about what is missing, and held against the budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foveola.runtime.__main__ import main
from foveola.runtime.benchmark.merge import merge
from foveola.runtime.benchmark.record import (
    MAX_RECORD_BYTES,
    Bench,
    decode_record,
    encode_record,
    read_record,
)
from foveola.runtime.benchmark.run import bench, judge
from foveola.runtime.benchmark.start import cold_starts
from foveola.runtime.benchmark.words import record_lines, settings_words
from foveola.runtime.bundle import Bundle, write_bundle
from foveola.runtime.errors import ExitCode, FoveolaError
from foveola.runtime.manifest import Budget, Manifest, OpenVinoOptions, TensorRtOptions, encode_manifest
from foveola.runtime.measure import Latency

Capture = pytest.CaptureFixture[str]
QUICK = ("--runs", "3", "--cold", "0", "--energy", "0")


@pytest.fixture(scope="module")
def record(tiny_path: Path, tiny_bundle: Bundle, tiny_image: bytes) -> Bench:
    """A whole run with everything but energy, on fresh processes too."""
    return bench(tiny_bundle, tiny_image, runs=5, path=tiny_path, starts=2, idle_s=0.001, energy_s=0.01, sustain_s=0.05)


@pytest.fixture
def with_budget(
    tiny_members: dict[str, bytes], tiny_manifest: Manifest, tmp_path: Path, tiny_keys: tuple[Path, Path]
) -> Callable[[Budget], Path]:
    from foveola.export.signing import sign_members

    def make(budget: Budget) -> Path:
        manifest = msgspec.structs.replace(tiny_manifest, budget=budget)
        members = {**tiny_members, "manifest.json": encode_manifest(manifest)}
        path = tmp_path / "tiny.foveola"
        write_bundle(path, {**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())})
        path.with_suffix(".pub").write_bytes(tiny_keys[1].read_bytes())
        return path

    return make


def answer_of(capsys: Capture) -> dict[str, Any]:
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


# --- the record ---


def test_a_cold_start_is_its_parts(record: Bench) -> None:
    cold = record.cold_start
    assert cold is not None
    parts = [cold.interpreter, cold.imports, cold.engine_import, cold.load, cold.open, cold.first_answer]

    assert cold.starts == 2
    assert all(0 < part.least_ms <= part.median_ms <= part.most_ms for part in parts)
    # Of two starts the median is the mean, so the parts add up exactly.
    assert sum(part.median_ms for part in parts) == pytest.approx(cold.total.median_ms)
    assert cold.total.median_ms > cold.second_answer.median_ms


def test_memory_is_weighed_in_a_fresh_process(record: Bench) -> None:
    memory = record.memory
    stations = [memory.bare_mib, memory.imported_mib, memory.loaded_mib, memory.opened_mib, memory.peak_mib]

    known = [station for station in stations if station is not None]
    assert len(known) == len(stations)
    assert known[0] < known[1] <= known[2] <= known[3] <= known[4]
    assert memory.beyond_bare_mib == pytest.approx(known[4] - known[0])
    assert known[0] < 40  # Python alone, whatever this process holds


def test_the_phases_are_those_of_a_prediction(record: Bench) -> None:
    phases = record.phases
    total = sum(getattr(phases, name).median_ms for name in phases.__struct_fields__)

    assert phases.engine.runs == record.end_to_end.runs == record.engine_alone.runs == 5
    assert 0.05 * record.end_to_end.median_ms < total < 20 * record.end_to_end.median_ms


def test_the_record_tells_the_bundle_the_settings_and_the_sizes(
    record: Bench, tiny_bundle: Bundle, tiny_path: Path
) -> None:
    assert record.bundle.digest == tiny_bundle.digest
    assert record.bundle.bundle_bytes == tiny_path.stat().st_size
    assert record.bundle.graph_bytes == len(tiny_bundle.members["model.onnx"])
    assert record.engine.settings == tiny_bundle.manifest.engines[0]
    assert record.engine.version.startswith("1.")
    assert (record.image.width, record.image.height, record.image.mode) == (64, 64, "L")
    assert record.after_idle is not None
    assert record.sustained is not None


def test_what_is_missing_has_a_word_why(tiny_bundle: Bundle, tiny_image: bytes, tmp_path: Path) -> None:
    seen = bench(tiny_bundle, tiny_image, runs=1, energy_s=0.01, sustain_s=0.01, root=tmp_path)

    assert (seen.cold_start, seen.energy, seen.after_idle) == (None, None, None)
    assert [note.partition(":")[0] for note in seen.notes] == ["energy", "memory", "temperature", "clock"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_engine_is_measured(tiny_bundle: Bundle, tiny_image: bytes, engine: str) -> None:
    seen = bench(tiny_bundle, tiny_image, engine=engine, runs=2)

    assert seen.engine.engine == engine
    assert seen.engine.version


def test_a_record_comes_back_as_it_was_and_names_no_machine(record: Bench, tiny_path: Path) -> None:
    data = encode_record(record)

    assert decode_record(data) == record
    assert encode_record(decode_record(data)) == data
    assert str(tiny_path.parent) not in data.decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw | {"schema": 2}, "schema 2 is not this runtime's 1; update foveola"),
        (lambda raw: raw | {"schema": 0}, "schema 0 is not this runtime's 1; measure again"),
        (lambda raw: raw | {"speed": 1}, "unknown field `speed`"),
        (lambda raw: raw | {"cold_start": {"starts": "two"}}, r"Expected `int`, got `str` - at `\$.cold_start.starts`"),
        (lambda raw: [], "no record of `bench`"),
    ],
    ids=["a later schema", "an earlier schema", "an unknown field", "a wrong type", "no object"],
)
def test_a_record_of_another_kind_is_refused(record: Bench, change: Callable[[Any], Any], words: str) -> None:
    data = json.dumps(change(json.loads(encode_record(record)))).encode()

    with pytest.raises(FoveolaError, match=words):
        decode_record(data, "a.json")


def test_a_file_too_large_for_a_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(MAX_RECORD_BYTES + 1)

    with pytest.raises(FoveolaError, match="has more than"):
        read_record(path)


def test_words_name_every_figure(record: Bench) -> None:
    words = "\n".join(record_lines(record))

    for word in ("cold start", "first answer", "decode", "postprocess", "after idling", "sustained", "peak memory"):
        assert word in words
    assert settings_words(OpenVinoOptions(threads=1, pinned=True)) == "1 thread, pinned, CPU, f32"
    assert settings_words(TensorRtOptions()) == "float16, TF32 off"


# --- the fresh process ---


def test_a_process_that_does_not_answer_is_told_with_its_last_line(
    tiny_path: Path, tiny_image: bytes, tmp_path: Path
) -> None:
    with pytest.raises(FoveolaError, match="a fresh process did not answer: .*not a PNG"):
        cold_starts(tiny_path, "onnxruntime", b"text", starts=1)
    with pytest.raises(FoveolaError, match="a fresh process did not answer: .*lost.pub"):
        cold_starts(tiny_path, "onnxruntime", tiny_image, starts=1, key=tmp_path / "lost.pub")


def test_a_fresh_process_takes_no_module_from_the_working_folder(
    tiny_path: Path, tiny_image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "statistics.py").write_text("raise SystemExit('taken')")
    (tmp_path / "argparse.py").write_text("raise SystemExit('taken')")
    (tmp_path / "msgspec.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)

    cold, _ = cold_starts(tiny_path, "onnxruntime", tiny_image, starts=1)

    assert cold.total.median_ms > 0


def test_the_child_loads_nothing_before_it_is_weighed() -> None:
    heavy = "[m for m in ('numpy', 'PIL', 'msgspec') if m in sys.modules]"
    code = f"import sys, foveola.runtime.benchmark.child; print({heavy})"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"


# --- the budget ---


def test_a_budget_is_judged_line_by_line() -> None:
    times = Latency(runs=9, median_ms=4.0, p95_ms=9.0, p99_ms=9.0, least_ms=1.0)

    lines = judge(Budget(latency_ms=4, size_mb=1, memory_mib=90), times, None, 1_000_001, None)

    assert [(line.what, line.holds) for line in lines] == [
        ("latency, median", True),
        ("size of the bundle", False),
        ("peak memory", None),
    ]
    assert judge(None, times, None, 1, 1.0) == ()


def test_a_hot_device_must_keep_its_budget_too(record: Bench) -> None:
    assert record.sustained is not None
    slow = msgspec.structs.replace(record.sustained, last_ms=5.0)
    times = Latency(runs=9, median_ms=4.0, p95_ms=9.0, p99_ms=9.0, least_ms=1.0)

    lines = judge(Budget(latency_ms=4, size_mb=1, memory_mib=90), times, slow, 1, 1.0)

    assert [(line.what, line.holds) for line in lines][:2] == [("latency, median", True), ("latency, sustained", False)]


@pytest.mark.parametrize(("latency_ms", "word", "code"), [(1e6, "holds", 0), (1e-6, "OVER", 1)])
def test_the_exit_code_tells_a_missed_budget_only_on_demand(
    with_budget: Callable[[Budget], Path], capsys: Capture, latency_ms: float, word: str, code: int
) -> None:
    path = with_budget(Budget(latency_ms=latency_ms, size_mb=100, memory_mib=1e6))

    assert main(["bench", str(path), *QUICK]) == ExitCode.DONE
    assert f"(generic-x86): {word}" in capsys.readouterr().out
    assert main(["bench", str(path), *QUICK, "--require-budget"]) == code


def test_a_budget_that_is_not_there_cannot_be_required(tiny_path: Path, capsys: Capture) -> None:
    assert main(["bench", str(tiny_path), *QUICK, "--require-budget"]) == ExitCode.REFUSED
    assert "its manifest names no budget; make it with a device's profile" in capsys.readouterr().err


# --- the verb ---


def test_bench_gives_one_json_object_and_writes_the_same_record(
    tiny_path: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "here.json"

    assert main(["bench", str(tiny_path), *QUICK, "--idle", "0.001", "--out", str(out), "--json"]) == ExitCode.DONE

    result = answer_of(capsys)
    assert result == json.loads(out.read_bytes())
    assert result["end_to_end"]["runs"] == 3
    assert result["after_idle"]["pause_s"] == 0.001
    assert (result["sustained"], result["cold_start"]) == (None, None)
    assert read_record(out).bundle.name == "tiny"


def test_progress_goes_to_stderr(tiny_path: Path, capsys: Capture) -> None:
    assert main(["bench", str(tiny_path), *QUICK]) == ExitCode.DONE

    out, err = capsys.readouterr()
    assert err == "3 calls\n"
    assert out.startswith("tiny 1 (float32) on onnxruntime ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["other.foveola"], "2 bundles; measure one at a time"),
        (["--any-bundle"], "goes with --merge"),
        (["--energy", "nan"], "nan is no length of time"),
    ],
)
def test_options_that_make_no_sense_are_a_wrong_command(
    tiny_path: Path, capsys: Capture, more: list[str], words: str
) -> None:
    assert main(["bench", str(tiny_path), *more]) == ExitCode.USAGE
    assert words in capsys.readouterr().err


def test_a_record_that_cannot_be_written_leaves_nothing(tiny_path: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["bench", str(tiny_path), *QUICK, "--out", str(tmp_path / "lost" / "a.json")]) == ExitCode.REFUSED
    assert "cannot be written: No such file or directory; choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["lost/a.json", "."])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    tiny_path: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("foveola.runtime.benchmark.verb.bench", lambda *_, **__: pytest.fail("measured"))

    assert main(["bench", str(tiny_path), "--out", str(tmp_path / place)]) == ExitCode.REFUSED
    assert main(["bench", "--merge", "none.json", "--out", str(tmp_path / place)]) == ExitCode.REFUSED

    assert [line.partition(": ")[2][:17] for line in capsys.readouterr().err.splitlines()] == ["cannot be written"] * 2
    assert list(tmp_path.glob("*.partial")) == []


# --- several records ---


@pytest.fixture
def records(record: Bench, tmp_path: Path) -> tuple[Path, Path]:
    """Of this machine and of one that is slower and whose board says a table's worst."""
    board = msgspec.structs.replace(record.machine, board="Board | <b> `x`")
    slow = msgspec.structs.replace(
        record,
        machine=board,
        date="2026-01-01T00:00:00+00:00",
        disturbed=0.62,
        end_to_end=msgspec.structs.replace(record.end_to_end, median_ms=1234.5),
        budget=judge(Budget(latency_ms=4, size_mb=1, memory_mib=9e9), record.end_to_end, None, 9_000_000, 1.0),
    )
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, one in zip(paths, (record, slow), strict=True):
        path.write_bytes(encode_record(one))
    return paths


def test_records_become_one_table_with_a_row_each(records: tuple[Path, Path], record: Bench) -> None:
    table = merge(records)
    lines = table.markdown().splitlines()

    assert len(table.rows) == 2
    assert [line.count("|") - line.count("\\|") for line in lines[:4]] == [18] * 4
    slow = next(line for line in lines if "1234.50" in line)
    assert "Board \\| \\<b\\> \\`x\\`, " in slow
    assert "over: size of the bundle" in slow
    assert f"Bundle tiny 1: {record.bundle.digest}" in lines
    assert "Other work took 62% of the cores' time on Board \\| \\<b\\> " in table.markdown()
    assert lines[-1].startswith("Measured from 2026-01-01")


def test_the_verb_merges_in_words_in_json_and_into_a_file(
    records: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    words = ["bench", "--merge", *map(str, records)]

    assert main(words) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert main([*words, "--json"]) == ExitCode.DONE
    rows = answer_of(capsys)["rows"]
    assert main([*words, "--out", str(tmp_path / "t.md"), "--require-budget"]) == ExitCode.REFUSED

    assert (tmp_path / "t.md").read_text() == shown
    assert [row["engine"] for row in rows] == ["onnxruntime"] * 2
    assert {row["within_budget"] for row in rows} == {None, False}


def test_all_that_is_wrong_with_records_is_said_at_once(
    records: tuple[Path, Path], record: Bench, tmp_path: Path, capsys: Capture
) -> None:
    other = msgspec.structs.replace(record, bundle=msgspec.structs.replace(record.bundle, name="fundus"))
    later = json.loads(encode_record(record)) | {"schema": 9}
    (tmp_path / "other.json").write_bytes(encode_record(other))
    (tmp_path / "later.json").write_text(json.dumps(later))
    names = [str(tmp_path / name) for name in ("a.json", "other.json", "later.json", "lost.json")]

    assert main(["bench", "--merge", *names, names[0]]) == ExitCode.REFUSED

    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for word in ("schema 9", "lost.json: cannot be read", "the same record as", "of bundle 'fundus'", "--any-bundle"):
        assert word in err
    assert len(merge([Path(names[0]), Path(names[1])], any_bundle=True).rows) == 2
