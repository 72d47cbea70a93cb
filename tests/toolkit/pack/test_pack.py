"""Laws of the evidence pack: it holds together, is the same twice, names nobody, and refuses what does not belong."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import Bundle, read_unverified, write_bundle
from foveola.runtime.errors import FoveolaError, NotVouchedError, UsageError
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    Comparison,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OutputDifference,
    Provenance,
    TaskOutput,
    TemperatureFit,
    encode_manifest,
)
from foveola.runtime.task import Task
from foveola.toolkit.commands.table import foveola as main
from foveola.toolkit.pack.write import SUMS, Pack, write_pack
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.evidence import Drift, Evidence, Transfer, encode_evidence
from foveola.toolkit.parity.evidence import Provenance as ProvedWhere
from foveola.toolkit.parity.protocol import CaseRules, Protocol, usual_rules
from foveola.toolkit.parity.prove import Beside, prove
from foveola.toolkit.proof.changes import UNKNOWN, StudentFacts, TeacherFacts, changes_of, student_of
from foveola.toolkit.proof.flips_csv import flips_csv
from foveola.toolkit.protocol.file import Lock
from foveola.toolkit.stages.pack import MakePack

SHA = "5a" * 32
FINDING = Task(name="finding", kind="binary", classes=("no", "=yes"))  # a name that a spreadsheet would compute
PROTOCOL = Protocol(
    name="tiny", data=CaseRules(subgroups=("sex",)), tasks={"finding": usual_rules(FINDING)}, resamples=100
)
ENGINE = OnnxRuntimeOptions(threads=1, spinning=False)
WHERE = ProvedWhere(
    versions={"numpy": "2.4.6", "onnxruntime": "1.31.1", "python": "3.11.7", "scipy": "1.17.1"},
    hardware={"processor": "Intel N100", "instructions": "avx2, avx_vnni", "cores": "4"},
    arithmetic={"onnxruntime": "int8 in 1 of 1 convolutions and matrix products"},
)


def graph() -> bytes:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Conv", ["mean", "weight", "bias"], ["raw"]),
        helper.make_node("Flatten", ["raw"], ["finding"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weight"),
        numpy_helper.from_array(np.zeros(1, np.float32), "bias"),
        numpy_helper.from_array(np.zeros(9, np.float32), "unused"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    answer = helper.make_tensor_value_info("finding", TensorProto.FLOAT, [1, 1])
    whole = helper.make_graph(nodes, "tiny", [image], [answer], constants)
    return bytes(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def make_manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(TaskOutput(task=FINDING, tensors=("finding",), thresholds=(0.5,), temperature=1.25),),
        engines=(ENGINE,),
        calibration=Calibration(method="minmax", images=128, min_images=128, images_digest=SHA),
        comparisons=(
            Comparison(
                engine="onnxruntime",
                images=32,
                outputs=(OutputDifference(tensor="finding", largest=0.1, mean=0.01, decisions=32, flips=1),),
            ),
        ),
        temperatures=(
            TemperatureFit(task="finding", split="val", images=64, temperature=1.25, before=0.41, after=0.4),
        ),
        provenance=Provenance(
            recipe="tiny", recipe_digest=SHA, data_digest=SHA, teacher_digest=SHA, student_digest=SHA, seed=7,
            versions={"numpy": "2.4.5", "torch": "2.15.0"},
        ),
    )  # fmt: skip


def make_evidence(bundle: Bundle) -> tuple[Evidence, bytes]:
    """A proof with a little of everything, and its table of flips."""
    rng = np.random.default_rng(0)
    truth = (np.arange(200) % 2).astype(np.float64)[:, None]
    teacher = np.clip(0.3 + 0.4 * truth + 0.15 * rng.standard_normal((200, 1)), 0, 1)
    student = np.clip(teacher + 0.02 * rng.standard_normal((200, 1)), 0, 1)
    cases = Cases(
        keys=tuple(f"case-{n:04d}-{n:08x}" for n in range(200)),
        patients=tuple(f"patient-{n // 2:04d}-{n // 2:08x}" for n in range(200)),
        attributes={"sex": tuple("FM"[n // 2 % 2] for n in range(200))},
    )
    limits: dict[str, tuple[float, ...]] = {"finding": (0.5,)}
    proof = prove(
        [FINDING],
        cases,
        References(scores={"finding": truth}),
        Answers(scores={"finding": teacher}, thresholds=limits),
        {"onnxruntime": Answers(scores={"finding": student}, thresholds=limits)},
        protocol=PROTOCOL,
        beside=Beside(
            transfers=(
                Transfer(
                    engine="onnxruntime", task="finding", label="=yes", fitted_on="calibration", locked=0.5,
                    refitted=0.48, sensitivity=(0.9, 0.92), specificity=(0.9, 0.88),
                ),
            ),
            drifts=(
                Drift(engine="", what="input/brightness", cases=200, reference_cases=64, psi=0.3, ks=0.2, flagged=True),
            ),
            changes=changes_of(TeacherFacts(networks=("resnet50",), parameters=23_000_000), bundle.manifest),
            provenance=WHERE,
        ),
        bundle="tiny",
        bundle_digest=bundle.core_digest,
        teacher_digest=SHA,
        data_digest=SHA,
        split="test",
    )  # fmt: skip
    return proof.evidence, flips_csv(proof.flips)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.foveola` with its key, and `proof/` with the lock of its protocol."""
    folder = tmp_path_factory.mktemp("pack")
    private, _ = make_keys(folder / "tiny")
    members = {"manifest.json": encode_manifest(make_manifest()), "model.onnx": graph()}
    bundle = write_bundle(
        folder / "tiny.foveola", {**members, "model.sig": sign_members(members, private.read_bytes())}
    )
    evidence, flips = make_evidence(bundle)
    proof = folder / "proof"
    proof.mkdir()
    (proof / "evidence.json").write_bytes(encode_evidence(evidence))
    (proof / "flips.csv").write_bytes(flips)
    (proof / "report.html").write_text("<!DOCTYPE html><title>report</title>", encoding="utf-8")
    lock = Lock(digest=PROTOCOL.digest, locked="2026-01-05", foveola="0.1.0", protocol=PROTOCOL)
    (proof / "protocol.lock.json").write_bytes(msgspec.json.encode(lock))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture(scope="module")
def pack(made: Path) -> Pack:
    return write_pack(made / "tiny.foveola", made / "proof", made / "evidence", key=made / "tiny.pub")


def written(pack: Pack, name: str) -> str:
    return (pack.folder / name).read_text(encoding="utf-8")


def table(pack: Pack, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((pack.folder / name).read_bytes().decode(), newline="")))


class Page(html.parser.HTMLParser):
    """The attributes and the text of a page, without its style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.text, self._style = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else f"{data} "


def test_the_pack_has_its_files_and_the_sums_of_all_of_them(pack: Pack) -> None:
    lines = [line.split("  ") for line in written(pack, SUMS).splitlines()]

    assert {name for _, name in lines} == {
        "index.html", "change-control.html", "model-card.html", "traceability.csv", "soup.csv", "sbom.cdx.json",
        "evidence.json", "report.html", "flips.csv", "protocol.lock.json",
    }  # fmt: skip
    assert {path.name for path in pack.folder.iterdir()} == {name for _, name in lines} | {SUMS}
    for digest, name in lines:
        assert hashlib.sha256((pack.folder / name).read_bytes()).hexdigest() == digest


def test_the_proofs_own_files_are_copied_byte_for_byte(pack: Pack, made: Path) -> None:
    for name in ("evidence.json", "report.html", "flips.csv", "protocol.lock.json"):
        assert (pack.folder / name).read_bytes() == (made / "proof" / name).read_bytes()


def test_equal_inputs_give_equal_bytes_in_another_process_and_place(pack: Pack, place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from foveola.toolkit.pack.write import write_pack;"
        " p = Path(sys.argv[1]);"
        "write_pack(p / 'tiny.foveola', p / 'proof', p / 'again', key=p / 'tiny.pub')"
    )
    subprocess.run([sys.executable, "-c", code, place], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)

    assert (place / "again" / SUMS).read_bytes() == (pack.folder / SUMS).read_bytes()


def test_no_path_machine_or_time_stands_in_the_pack(pack: Pack, made: Path) -> None:
    words = [str(made), str(Path.home()) + "/", socket.gethostname(), "timestamp"]

    found = [
        (path.name, word) for path in pack.folder.iterdir() for word in words if word.encode() in path.read_bytes()
    ]

    assert not found


def test_every_endpoint_subgroup_and_operating_point_is_traced_with_its_digests(pack: Pack) -> None:
    rows, evidence = table(pack, "traceability.csv"), pack.evidence
    kinds = [row["kind"].split(",")[0] for row in rows]

    assert kinds.count("endpoint") == len(evidence.endpoints)
    assert kinds.count("subgroup") == len(evidence.subgroups) > 0
    assert {"operating point", "drift", "self-test on the device", "integrity", "artefact against torch"} <= set(kinds)
    assert {row["bundle_digest"] for row in rows} == {evidence.bundle_digest}
    assert {row["protocol_digest"] for row in rows} == {PROTOCOL.digest}
    assert len({row["requirement"] for row in rows}) == len(rows)


def test_a_row_leads_from_the_protocols_field_to_the_numbers_and_the_file(pack: Pack) -> None:
    row = next(
        one for one in table(pack, "traceability.csv") if one["requirement"] == "endpoint/finding/auc/onnxruntime"
    )
    endpoint = next(one for one in pack.evidence.endpoints if one.metric == "auc")

    assert row["protocol_field"] == "tasks.finding.endpoints.auc"
    assert row["asked"] == f"bound above -{endpoint.margin:g}, one-sided level 0.025"
    assert f"difference {endpoint.difference:.6g} ({endpoint.low:.6g} to {endpoint.high:.6g})" in row["result"]
    assert row["verdict"] == endpoint.verdict
    assert row["artefact_sha256"] == pack.files["evidence.json"]


def test_members_of_the_bundle_are_named_by_their_own_digest(pack: Pack, made: Path) -> None:
    members = read_unverified(made / "tiny.foveola").members

    rows = {row["requirement"]: row for row in table(pack, "traceability.csv")}

    assert rows["signature"]["verdict"] == "pass"
    assert rows["signature"]["artefact_sha256"] == hashlib.sha256(members["model.sig"]).hexdigest()
    assert rows["self-test"]["verdict"] == "missing"  # this tiny bundle carries none


def test_a_name_that_a_spreadsheet_would_compute_is_text(pack: Pack) -> None:
    cells = [cell for name in ("traceability.csv", "soup.csv") for row in table(pack, name) for cell in row.values()]

    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_the_soup_list_holds_what_the_device_runs_and_nothing_else(pack: Pack) -> None:
    rows = {row["component"]: row for row in table(pack, "soup.csv")}

    assert set(rows) == {"cryptography", "foveola", "msgspec", "numpy", "onnxruntime", "pillow", "python"}
    assert rows["numpy"]["version"] == "2.4.6"  # of the proof, and not of the making
    assert (rows["pillow"]["version"], rows["pillow"]["version_from"]) == ("not recorded", "")
    assert all(row["supplier"] and row["licence"] and row["functional_requirement"] for row in rows.values())
    assert "microsoft/onnxruntime#5849: " in rows["onnxruntime"]["known_anomalies"]
    assert rows["onnxruntime"]["measures"]


def test_the_standards_schema_accepts_the_bill_of_materials(pack: Pack) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validator's own dependencies
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written(pack, "sbom.cdx.json")) is None


def test_the_bill_of_materials_holds_the_measured_numbers_with_their_intervals(pack: Pack) -> None:
    document: dict[str, Any] = json.loads(written(pack, "sbom.cdx.json"))
    card = document["metadata"]["component"]["modelCard"]
    metrics = {row["type"]: row for row in card["quantitativeAnalysis"]["performanceMetrics"]}
    endpoint = next(one for one in pack.evidence.endpoints if one.metric == "auc")

    row = metrics["auc, difference to the teacher (positive: better)"]
    assert row["confidenceInterval"] == {
        "lowerBound": f"{endpoint.low:.6g}",
        "upperBound": f"{endpoint.high:.6g}",
    }
    assert metrics["auc"]["value"] == f"{endpoint.student:.6g}"
    assert [one["name"] for one in card["modelParameters"]["datasets"]] == [
        "training and validation", "calibration", "proof",
    ]  # fmt: skip
    properties = {one["name"]: one["value"] for one in document["metadata"]["properties"]}
    assert properties["foveola:proof:protocol"] == PROTOCOL.digest
    assert properties["foveola:proof:arithmetic:onnxruntime"] == WHERE.arithmetic["onnxruntime"]


@pytest.mark.parametrize("name", ["index.html", "model-card.html", "change-control.html"])
def test_a_page_loads_nothing_and_links_only_to_files_of_the_pack(pack: Pack, name: str) -> None:
    text = written(pack, name)
    page = Page(text)

    links = {value.partition("#")[0] for _, kind, value in page.attributes if kind in ("href", "src")} - {""}
    assert links <= set(pack.files)
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert "It supports a submission and is none" in page.text


def test_change_control_says_what_was_modified_under_which_protocol_and_what_came_out(pack: Pack) -> None:
    text = " ".join(Page(written(pack, "change-control.html")).text.split())

    assert "precision on onnxruntime float32 int8, weights and activations of 8 bits" in text
    assert "resnet50" in text
    assert PROTOCOL.digest in text
    assert "temperature of finding 1 1.25, fitted on 64 images of split val" in text
    assert "input/brightness" in text


def test_the_model_card_leaves_to_the_maker_what_only_the_maker_knows(pack: Pack) -> None:
    text = Page(written(pack, "model-card.html")).text

    assert "Intended use, users and patients: the maker of the device states them." in text
    assert "Proved on a processor with avx2, avx_vnni; int8 may be computed otherwise on another." in text


def test_the_first_page_says_when_cases_are_named_as_in_the_data(place: Path) -> None:
    key = place / "tiny.pub"
    hidden = write_pack(place / "tiny.foveola", place / "proof", place / "one", key=key)
    assert hidden.evidence.flips
    change(place, lambda one: msgspec.structs.replace(
        one, flips=(msgspec.structs.replace(one.flips[0], case="images/p0001.png"), *one.flips[1:])
    ))  # fmt: skip
    named = write_pack(place / "tiny.foveola", place / "proof", place / "two", key=key)

    assert "names cases and patients as the data do" not in written(hidden, "index.html")
    assert "names cases and patients as the data do" in written(named, "index.html")


def change(place: Path, how: Callable[[Evidence], Evidence]) -> None:
    path = place / "proof/evidence.json"
    path.write_bytes(encode_evidence(how(msgspec.json.decode(path.read_bytes(), type=Evidence))))


def another_bundle(place: Path) -> None:
    change(place, lambda one: msgspec.structs.replace(one, bundle_digest="f" * 64))


def another_protocol(place: Path) -> None:
    change(place, lambda one: msgspec.structs.replace(one, protocol_digest="f" * 64))


def older_format(place: Path) -> None:
    change(place, lambda one: msgspec.structs.replace(one, format=1))


def no_evidence(place: Path) -> None:
    (place / "proof/evidence.json").unlink()
    (place / "proof/flips.csv").unlink()


def not_json(place: Path) -> None:
    (place / "proof/evidence.json").write_text('{"format": 2}', encoding="utf-8")


def full_folder(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out/notes.txt").touch()


def edited_lock(place: Path) -> None:
    path = place / "proof/protocol.lock.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed":0', '"seed":1'), encoding="utf-8")


def another_key(place: Path) -> None:
    make_keys(place / "other")[1].replace(place / "tiny.pub")


@pytest.mark.parametrize(
    ("break_it", "kind", "words"),
    [
        (another_bundle, UsageError, "is the proof of bundle ffffffffffff, not of"),
        (another_protocol, UsageError, "the proof was made under ffffffffffff"),
        (older_format, FoveolaError, "format 1 is not read"),
        (no_evidence, UsageError, "holds no evidence.json, flips.csv"),
        (not_json, FoveolaError, "not the evidence of a proof"),
        (full_folder, UsageError, "is not empty"),
        (edited_lock, NotVouchedError, "was edited"),
        (another_key, NotVouchedError, "another key"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_nothing_is_written(
    place: Path, break_it: Callable[[Path], None], kind: type[FoveolaError], words: str
) -> None:
    break_it(place)
    before = sorted((place / "out").iterdir()) if (place / "out").exists() else None

    with pytest.raises(kind, match=words) as caught:
        write_pack(place / "tiny.foveola", place / "proof", place / "out", key=place / "tiny.pub")

    assert "\n" not in str(caught.value)
    assert (sorted((place / "out").iterdir()) if (place / "out").exists() else None) == before


def test_a_pack_without_protocol_and_signature_says_both(place: Path) -> None:
    (place / "proof/protocol.lock.json").unlink()

    found = write_pack(place / "tiny.foveola", place / "proof", place / "out", unsigned=True)

    text = Page(written(found, "index.html")).text
    assert "The protocol is not in this pack." in text
    assert "signature was not checked" in text
    assert {row["requirement"]: row for row in table(found, "traceability.csv")}["signature"][
        "verdict"
    ] == "not checked"


def test_the_command_writes_the_pack_and_says_where(place: Path) -> None:
    arguments = ["evidence", str(place / "tiny.foveola"), "--proof", str(place / "proof"), "-o", str(place / "out")]

    done = CliRunner().invoke(main, [*arguments, "--json"], standalone_mode=False)

    assert done.exception is None
    said = json.loads(done.stdout)
    assert Path(said["index"]).is_file()
    assert said["verdict"] == msgspec.json.decode((place / "out/evidence.json").read_bytes(), type=Evidence).verdict


def test_changes_are_told_side_by_side_and_what_is_not_known_is_said() -> None:
    teacher = TeacherFacts(networks=("resnet50", "densenet121"), thresholds={"finding": (0.31,)})
    rows = {row.what: (row.teacher, row.student) for row in changes_of(teacher, make_manifest(), StudentFacts())}

    assert rows["architecture"] == ("resnet50 + densenet121", UNKNOWN)
    assert rows["thresholds of finding"] == ("=yes 0.31", "=yes 0.5")
    assert rows["temperature of finding"] == ("1", "1.25, fitted on 64 images of split val")
    assert rows["calibration of the ranges"][1].startswith("minmax on 128 images")


def test_parameters_are_those_of_the_layers_alone(made: Path) -> None:
    onnx.checker.check_model(onnx.load_model_from_string(graph()))

    assert student_of(read_unverified(made / "tiny.foveola")) == StudentFacts(parameters=2)


def test_the_stage_writes_the_same_pack_from_a_recipes_steps(place: Path) -> None:
    fixed, out = place / "protocol", place / "step"
    fixed.mkdir()
    out.mkdir()
    (fixed / "protocol.json").write_bytes(msgspec.json.encode(PROTOCOL))
    (place / "proof/protocol.lock.json").unlink()
    inputs = {"bundle": place, "proof": place / "proof", "protocol": fixed}
    work: Any = SimpleNamespace(inputs=inputs, recipe=SimpleNamespace(name="tiny"), folder=out)

    MakePack(bundle="ship", proof="proof", protocol="fixed").run(work)

    assert (out / "protocol.json").read_bytes() == (fixed / "protocol.json").read_bytes()
    assert (out / SUMS).is_file()
