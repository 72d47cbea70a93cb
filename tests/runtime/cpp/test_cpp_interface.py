"""The C interface: the same answers into the caller's buffer, codes instead of exceptions, the last error in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from foveola.export.signing import sign_members
from foveola.runtime.bundle import bundle_bytes
from foveola.tests.runtime.cpp.conftest import ROOT, SOURCES, Ask

# In a process of its own: a library that crashes would take the tests with it.
CLIENT = """
import ctypes, json, sys
from ctypes import byref, c_char_p, c_size_t, c_void_p
library, bundle, key, image = sys.argv[1:]
f = ctypes.CDLL(library)
f.foveola_last_error.restype = c_char_p
f.foveola_open.argtypes = [c_char_p, c_char_p, c_void_p]
f.foveola_infer.argtypes = [c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p]
f.foveola_selftest.argtypes = [c_void_p, c_char_p, c_size_t, c_void_p]
f.foveola_close.argtypes = [c_void_p]
told = {}

def note(name, code, **more):
    told[name] = {"code": code, "error": f.foveola_last_error().decode(), **more}

handle, needed = c_void_p(), c_size_t()
note("absent", f.foveola_open(b"absent.foveola", None, byref(handle)), handle=handle.value)
note("no key", f.foveola_open(bundle.encode(), b"absent.pub", byref(handle)), handle=handle.value)
note("open", f.foveola_open(bundle.encode(), key.encode(), byref(handle)))
data = open(image, "rb").read()
note("no room", f.foveola_infer(handle, data, len(data), None, 0, byref(needed)))
small = ctypes.create_string_buffer(b"x" * 9, 10)
note("too small", f.foveola_infer(handle, data, len(data), small, 10, byref(needed)), kept=small.value.decode())
room = ctypes.create_string_buffer(needed.value)
note("infer", f.foveola_infer(handle, data, len(data), room, needed.value, byref(needed)), json=room.value.decode())
note("not an image", f.foveola_infer(handle, b"text", 4, room, len(room), byref(needed)))
note("empty", f.foveola_infer(handle, None, 0, room, len(room), byref(needed)))
room = ctypes.create_string_buffer(65536)
note("selftest", f.foveola_selftest(handle, room, len(room), None), json=room.value.decode())
note("no handle", f.foveola_infer(None, data, len(data), room, len(room), None))
f.foveola_close(handle)
f.foveola_close(None)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(
    built: Path, tiny_path: Path, tiny_image: bytes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    image = tmp_path_factory.mktemp("image") / "chest.png"
    image.write_bytes(tiny_image)
    words = (built / "libfoveola.so", tiny_path, tiny_path.with_suffix(".pub"), image)
    ended = subprocess.run(
        [sys.executable, "-I", "-c", CLIENT, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    answers: dict[str, dict[str, object]] = json.loads(ended.stdout)
    return answers


def test_the_c_interface_answers_as_the_command_does(
    told: dict[str, dict[str, object]], ask: Ask, tiny_path: Path, tiny_image: bytes, tmp_path: Path
) -> None:
    (tmp_path / "chest.png").write_bytes(tiny_image)

    command = json.loads(ask("predict", tiny_path, tmp_path / "chest.png", "--json").stdout)

    assert (told["open"]["code"], told["infer"]["code"]) == (0, 0)
    assert json.loads(str(told["infer"]["json"])) == command["images"][0]["prediction"]
    assert json.loads(str(told["selftest"]["json"]))["identical"] is True


def test_codes_are_those_of_the_agreement_and_errors_are_one_line(told: dict[str, dict[str, object]]) -> None:
    codes = {name: answer["code"] for name, answer in told.items()}

    assert (codes["absent"], codes["no key"], codes["not an image"], codes["empty"], codes["no handle"]) == (
        1,
        5,
        1,
        1,
        2,
    )
    assert told["absent"]["handle"] is None
    assert told["no key"]["handle"] is None
    for name, answer in told.items():
        assert (answer["error"] == "") == (answer["code"] == 0), name
        assert str(answer["error"]).isprintable()


def test_a_buffer_that_is_too_small_is_left_as_it_is(told: dict[str, dict[str, object]]) -> None:
    assert (told["no room"]["code"], told["too small"]["code"]) == (-1, -1)
    assert told["too small"]["kept"] == "x" * 9


def test_a_bundle_that_judges_fitness_gets_no_answer(
    ask: Ask, tiny_members: dict[str, bytes], tiny_keys: tuple[Path, Path], tiny_image: bytes, tmp_path: Path
) -> None:
    manifest = json.loads(tiny_members["manifest.json"]) | {"fitness": {"kind": "fundus", "bounds": []}}
    members = {**tiny_members, "manifest.json": json.dumps(manifest).encode()}
    bundle, image = tmp_path / "judges.foveola", tmp_path / "chest.png"
    bundle.write_bytes(bundle_bytes({**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())}))
    image.write_bytes(tiny_image)

    ended = ask("predict", bundle, image, "--key", tiny_keys[1], "--json")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "asks which images are fit, and this reader judges none" in ended.stderr
    assert ask("verify", bundle, "--key", tiny_keys[1]).returncode == 0


def test_a_bundle_without_openvino_names_its_cure(
    ask: Ask, tiny_members: dict[str, bytes], tiny_keys: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = json.loads(tiny_members["manifest.json"])
    manifest["engines"] = manifest["engines"][:1]
    members = {**tiny_members, "manifest.json": json.dumps(manifest).encode()}
    bundle = tmp_path / "other.foveola"
    bundle.write_bytes(bundle_bytes({**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())}))

    ended = ask("selftest", bundle, "--key", tiny_keys[1])

    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr == "tiny: no engine of this bundle is known to this reader; export it for openvino\n"


@pytest.mark.parametrize("words", [(), ("predict",), ("predict", "b"), ("fly", "b"), ("verify", "b", "--depth")])
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...], ask: Ask) -> None:
    ended = ask(*words)

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_the_example_in_the_document_is_valid_c(built: Path, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
    (tmp_path / "example.c").write_text(document.split("```c\n")[1].split("```")[0])
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(SOURCES), "example.c"]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr


def test_the_key_is_the_caller_s_or_the_environment_s_or_beside_the_bundle(
    ask: Ask, tiny_path: Path, tiny_keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone.foveola"
    alone.write_bytes(tiny_path.read_bytes())
    monkeypatch.delenv("FOVEOLA_KEY", raising=False)

    refused = ask("verify", alone)
    assert (refused.returncode, refused.stdout) == (5, "")
    assert refused.stderr.startswith("alone.foveola: no key to check its signature with; give the key")
    assert ask("verify", tiny_path).returncode == 0
    assert ask("verify", alone, "--key", tiny_keys[1]).returncode == 0
    monkeypatch.setenv("FOVEOLA_KEY", str(tiny_keys[1]))
    assert ask("verify", alone).returncode == 0
    assert ask("verify", alone, "--key", tiny_keys[0]).returncode == 5
