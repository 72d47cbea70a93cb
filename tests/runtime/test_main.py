from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from foveola.export.signing import make_keys
from foveola.runtime.__main__ import main
from foveola.runtime.bundle import Bundle
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import ExitCode
from foveola.runtime.fitness.manifest import Bound, Fitness
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.verbs.table import VERBS

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def picture(tmp_path: Path, tiny_image: bytes) -> Path:
    path = tmp_path / "chest.png"
    path.write_bytes(tiny_image)
    return path


def answer_of(capsys: Capture) -> dict[str, Any]:
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_predict_gives_one_json_object(tiny_path: Path, picture: Path, capsys: Capture, engine: str) -> None:
    code = main(["predict", str(tiny_path), str(picture), str(picture), "--engine", engine, "--json"])

    result = answer_of(capsys)
    assert code == ExitCode.DONE
    assert (result["bundle"], result["engine"], len(result["images"])) == ("tiny", engine, 2)
    assert result["images"][0]["file"] == str(picture)
    assert [f["positive"] for f in result["images"][0]["prediction"]["findings"]] == [False, True]


def test_predict_in_words_names_findings_measures_masks_and_boxes(
    tiny_path: Path, picture: Path, capsys: Capture
) -> None:
    assert main(["predict", str(tiny_path), str(picture)]) == ExitCode.DONE

    words = capsys.readouterr().out
    for word in ("chest.png", "bright", "negative", "dark", "POSITIVE", "years", "none", "232 px", "spot"):
        assert word in words


@pytest.mark.skipif(sys.platform != "linux", reason="a name that is no text, as Linux alone allows it")
def test_an_image_of_any_name_is_answered_in_words_and_in_json_that_every_reader_takes(
    tiny_path: Path, tmp_path: Path, tiny_image: bytes, capsys: Capture
) -> None:
    picture = tmp_path / os.fsdecode(b"a \xff\xc3\xbc\x1b[31m.png")
    picture.write_bytes(tiny_image)

    assert main(["predict", str(tiny_path), str(picture)]) == ExitCode.DONE
    assert r"a \udcff" + "ü" + r"\x1b[31m.png" in capsys.readouterr().out
    for program in (main, _click):
        assert program(["predict", str(tiny_path), str(picture), "--json"]) == ExitCode.DONE
        (image,) = msgspec.json.decode(capsys.readouterr().out)["images"]
        assert "a \\udcffü\x1b[31m.png" in image["file"]


def _click(words: list[str]) -> int:
    from foveola.toolkit.cli import main as door

    return door(words)


@pytest.mark.parametrize("program", ["foveola.runtime", "foveola.toolkit"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full, as Linux has it")
def test_an_answer_that_cannot_be_written_is_told_in_one_line(tiny_path: Path, picture: Path, program: str) -> None:
    door = "foveola.toolkit.cli" if program == "foveola.toolkit" else "foveola.runtime.__main__"
    code = f"import sys; from {door} import main; sys.exit(main(sys.argv[1:]))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", str(tiny_path), str(picture)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == ExitCode.REFUSED
    assert done.stderr.startswith("stdout: the answer cannot be written: No space left on device; ")
    assert done.stderr.count("\n") == 1


def test_what_the_terminal_has_no_letter_for_is_written_with_a_backslash(
    tiny_path: Path, picture: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "Brustkorb-größe.png"
    odd.write_bytes(picture.read_bytes())
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "foveola.runtime", "predict", str(tiny_path), str(odd)]

    done = subprocess.run(command, capture_output=True, env=environment, check=False)

    assert (done.returncode, done.stderr) == (ExitCode.DONE, b"")
    assert rb"Brustkorb-gr\xf6\xdfe.png" in done.stdout


def test_masks_are_written_in_the_images_size(tiny_path: Path, picture: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(tiny_path), str(picture), "--masks", str(tmp_path / "out")]) == ExitCode.DONE

    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "chest.png.lungs.lung.png"
    mask = np.asarray(Image.open(path))
    assert mask.shape == (64, 64)
    assert np.unique(mask).tolist() == [0, 255]
    capsys.readouterr()


def test_masks_of_two_images_of_one_name_are_refused(
    tiny_path: Path, picture: Path, tmp_path: Path, capsys: Capture
) -> None:
    code = main(["predict", str(tiny_path), str(picture), "elsewhere/chest.png", "--masks", str(tmp_path / "out")])

    assert code == ExitCode.USAGE
    assert not (tmp_path / "out").exists()
    assert "several images are called chest.png" in capsys.readouterr().err


def test_one_bad_image_does_not_silence_the_others(tiny_path: Path, picture: Path, capsys: Capture) -> None:
    bad = picture.with_name("notes.png")
    bad.write_text("text")

    code = main(["predict", str(tiny_path), str(bad), str(picture), "--json"])

    out, err = capsys.readouterr()
    refused, answered = json.loads(out)["images"]
    assert code == ExitCode.REFUSED
    assert "not a PNG" in refused["error"]
    assert "prediction" in answered
    assert err.count("\n") == 1
    assert err.startswith(f"{bad}: ")


def test_nothing_is_said_on_stdout_where_every_image_was_refused(
    tiny_path: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["predict", str(tiny_path), str(tmp_path / "lost.png")]) == ExitCode.REFUSED

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(str(tmp_path / "lost.png"))


def test_an_engine_that_does_not_exist_is_a_wrong_command(tiny_path: Path, picture: Path, capsys: Capture) -> None:
    assert main(["predict", str(tiny_path), str(picture), "--engine", "coral"]) == ExitCode.USAGE
    assert "there is no such engine; this bundle runs on" in capsys.readouterr().err


def test_masks_that_cannot_be_written_leave_nothing_half_written(
    tiny_path: Path, picture: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)

    assert main(["predict", str(tiny_path), str(picture), "--masks", str(tmp_path / "out")]) == ExitCode.REFUSED
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == (
        f"{tmp_path / 'out'}: masks cannot be written: No space left on device; make room, or name another folder\n"
    )


def test_bench_names_the_image_that_it_cannot_read(tiny_path: Path, tmp_path: Path, capsys: Capture) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("text")

    assert main(["bench", str(tiny_path), "--image", str(bad)]) == ExitCode.REFUSED
    assert capsys.readouterr().err.startswith(f"{bad}: not a PNG")


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
@pytest.mark.parametrize("option", ["--idle", "--sustain"])
def test_bench_takes_lengths_of_time_only(tiny_path: Path, option: str, seconds: str, capsys: Capture) -> None:
    assert main(["bench", str(tiny_path), f"{option}={seconds}"]) == ExitCode.USAGE
    assert "is no length of time; give seconds" in capsys.readouterr().err


def test_inspect_needs_no_key(tiny_path: Path, tmp_path: Path, capsys: Capture) -> None:
    lonely = tmp_path / "tiny.foveola"
    lonely.write_bytes(tiny_path.read_bytes())

    assert main(["inspect", str(lonely)]) == ExitCode.DONE
    words = capsys.readouterr().out
    assert main(["inspect", str(lonely), "--json"]) == ExitCode.DONE

    result = answer_of(capsys)
    assert result["signed"]
    assert result["digest"] in words
    assert result["manifest"]["name"] == "tiny"
    assert result["members"]["model.onnx"] > 100
    for word in ("tiny 1 for generic-x86", "present, not checked here", "findings (multilabel): bright, dark at 0.5"):
        assert word in words


def test_inspect_tells_which_images_are_answered_about(
    bundle_with: Callable[[dict[str, bytes]], Bundle], tiny_manifest: Manifest, capsys: Capture
) -> None:
    rule = SourceRule(modalities=("CR", "DX"), lossy_ratio=10, presentation_only=False)
    bounds = (Bound(measure="field", low=0.5), Bound(measure="focus", low=-5))
    fitness = Fitness(kind="fundus", bounds=bounds, images=40, alarms=2)
    bundle = bundle_with({"manifest.json": encode_manifest(replace(tiny_manifest, source=rule, fitness=fitness))})

    assert main(["inspect", str(bundle.path)]) == ExitCode.DONE

    lines = capsys.readouterr().out.splitlines()
    asked = ["modalities: CR, DX", "presentation only: no", "lossy ratio: 10"]
    assert [line for line in lines if line.startswith("DICOM")] == [f"DICOM       {one}" for one in asked]
    assert "fitness     fundus: field, focus; 2 of 40 good images refused" in lines


def test_verify_tells_who_does_not_vouch(tiny_path: Path, tmp_path: Path, capsys: Capture) -> None:
    stranger = make_keys(tmp_path / "stranger")[1]

    assert main(["verify", str(tiny_path), "--key", str(tiny_path.with_suffix(".pub")), "--json"]) == ExitCode.DONE
    assert answer_of(capsys)["ok"]
    assert main(["verify", str(tiny_path), "--key", str(stranger), "--json"]) == ExitCode.NOT_VOUCHED
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_selftest_fails_with_a_reason(
    tiny_path: Path,
    bundle_with: Callable[[dict[str, bytes]], Bundle],
    tiny_graph: Callable[..., bytes],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["selftest", str(tiny_path)]) == ExitCode.DONE
    assert "self-test holds on onnxruntime: 1 images" in capsys.readouterr().out

    other = bundle_with({"model.onnx": tiny_graph(findings=([0.0, 0.0], [9.0, 9.0]))})
    monkeypatch.setattr("foveola.runtime.verbs.selftest.open_bundle", lambda path, key: other)

    assert main(["selftest", str(tiny_path), "--json"]) == ExitCode.REFUSED
    result = answer_of(capsys)
    assert not result["ok"]
    assert result["faults"]


def test_bench_takes_the_bundles_own_image(tiny_path: Path, picture: Path, capsys: Capture) -> None:
    quick = ["--runs", "3", "--cold", "0", "--energy", "0"]

    assert main(["bench", str(tiny_path), *quick, "--sustain", "0.01", "--json"]) == ExitCode.DONE
    result = answer_of(capsys)
    assert result["end_to_end"]["runs"] == 3
    assert result["after_idle"] is None
    assert result["sustained"]["runs"] >= 1

    assert main(["bench", str(tiny_path), *quick, "--idle", "0.001", "--image", str(picture)]) == ExitCode.DONE
    assert "after idling" in capsys.readouterr().out
    assert main(["bench", str(tiny_path), "--image", "absent.png"]) == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "VERB"),
        (["guess"], "invalid choice"),
        (["predict", "x.foveola"], "IMAGE"),
        (["bench", "x.foveola", "--runs", "0"], "at least 1"),
        (["verify", "x.foveola", "--engine", "onnxruntime"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_ends_with_two(arguments: list[str], words: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == ExitCode.USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.options[0].metavar == "BUNDLE"])
def test_every_verb_of_a_bundle_refuses_a_file_that_is_none_in_one_line(
    verb: str, tmp_path: Path, capsys: Capture
) -> None:
    fake = tmp_path / "x.foveola"
    fake.write_bytes(b"PK" * 99)
    more = {"predict": ["image.png"], "install": ["--root", str(tmp_path / "device"), "--key", "maker.pub"]}

    code = main([verb, str(fake), *more.get(verb, [])])

    out, err = capsys.readouterr()
    assert code in (ExitCode.REFUSED, ExitCode.NOT_VOUCHED)
    assert (out, err.count("\n")) == ("", 1)


def test_the_module_runs_as_a_program(tiny_path: Path, picture: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "foveola.runtime",
        "predict",
        str(tiny_path),
        str(picture),
        "--json",
    ]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert json.loads(ended.stdout)["bundle"] == "tiny"
