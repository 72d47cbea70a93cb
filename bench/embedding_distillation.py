"""Does a small student keep the space of a teacher after COMPRER: retrieval and probes, float and int8, by lesson.

The protocol stands in docs/comprer-ablation.md ("Second protocol") and was written before the first run.

    python bench/embedding_distillation.py run OUT --seeds 5    # one line a finished student in OUT/results.jsonl
    python bench/embedding_distillation.py table OUT

A run that was stopped goes on where it was. The teacher is the arm `all` of comprer_ablation.py, trained anew.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from foveola.bench.comprer_ablation import ALL, ENCODINGS, ROLES, SIZE, TASKS, paired, pretrain, quiet
from foveola.runtime.engine import open_session
from foveola.runtime.manifest import InputSpec, OnnxRuntimeOptions
from foveola.toolkit.answers import answer_images
from foveola.toolkit.compress.quantise import INT8_GRAPH, quantise_student
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Columns, Dataset, read_dataset
from foveola.toolkit.data.phantom_twins import MEASURES, OUTCOMES, make_twins
from foveola.toolkit.finished import teacher_answers
from foveola.toolkit.fit import forget
from foveola.toolkit.knobs import Lessons, Plan, Shape
from foveola.toolkit.models.network import load_network
from foveola.toolkit.parity import retrieval
from foveola.toolkit.teachers.comprer.judge import embed
from foveola.toolkit.teachers.comprer.learn import Pretrained
from foveola.toolkit.teachers.comprer.pairing import pairs_across, pairs_along
from foveola.toolkit.teachers.comprer.teacher import ComprerTeacher, teacher_of
from foveola.toolkit.train import distil_student
from foveola.toolkit.variants.slack import ask

CODE = "code"
NUMBERS = {"train": 300, "val": 40, "calibration": 24, "test": 200}
PATIENTS = sum(NUMBERS.values())
SHAPE = Shape(
    backbone="mobilenetv4_conv_small_050",
    input=InputSpec(height=SIZE, width=SIZE, channels=3, mean=(0.45, 0.25, 0.12), std=(0.28, 0.17, 0.10)),
    width=32,
)
PLAN = Plan(
    epochs=30, batch_size=32, learning_rate=2e-3, weight_decay=0.05, ema=0.0, augment=ENCODINGS["fundus"].augment
)
CALIBRATION = 64  # pictures
PLAIN = Lessons(soft_weight=1.0, hint_weight=0.0)


def _lessons(cosine: float, mse: float, relation: float) -> Lessons:
    return msgspec.structs.replace(PLAIN, embedding_cosine=cosine, embedding_mse=mse, embedding_relation=relation)


ARMS = {
    "values": _lessons(1.0, 0.5, 0.0),
    "relations": _lessons(0.0, 0.0, 1.0),
    "both": _lessons(1.0, 0.5, 1.0),
    "neither": _lessons(1e-12, 0.0, 0.0),  # a lesson of 0 is refused, since nothing would be learned
}
FORMS = ("teacher", "float", "int8")
METRICS = {
    "pair percentile among fundus": "pair",
    "pair percentile, fundus to carotid": "across",
    "probe AUC": "auc",
    "cosine with the teacher": "cosine",
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One finished student."""

    seed: int
    arm: str
    seconds: float
    forms: dict[str, dict[str, float]]


class Classroom(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the students of a seed share."""

    found: Pretrained
    teacher: ComprerTeacher
    fundus: Dataset  # tasks of the student
    labelled: Dataset  # the same pictures with every task
    carotid: NDArray[np.float32]  # embeddings of the test part by the teacher's carotid encoder
    cache: Path


def main() -> None:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    if given.what == "run":
        for seed in range(given.first, given.first + given.seeds):
            run_seed(given.out, seed)
    print(table(read_results(given.out)))


def run_seed(out: Path, seed: int) -> None:
    """A teacher and the students of one seed that are not finished."""
    out.mkdir(parents=True, exist_ok=True)
    done = {result.arm for result in read_results(out) if result.seed == seed}
    todo = [name for name in ARMS if name not in done]
    if not todo:
        return
    root = out / f"seed-{seed}"
    room = open_room(root, seed)
    for name in todo:
        start = time.perf_counter()
        forms = teach(room, root / name, ARMS[name], seed)
        result = Result(seed=seed, arm=name, seconds=time.perf_counter() - start, forms=forms)
        with (out / "results.jsonl").open("ab") as stream:
            stream.write(msgspec.json.encode(result) + b"\n")
        print(f"seed {seed}: {name} in {result.seconds:.0f} s", flush=True)
    shutil.rmtree(root)


def open_room(root: Path, seed: int) -> Classroom:
    """Draw the people and train the teacher; one that was begun goes on at its last epoch."""
    cache, folder = root / "cache", root / "twins"
    if not (folder / "manifest.csv").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shares = {split: number / PATIENTS for split, number in NUMBERS.items()}
        make_twins(folder, patients=PATIENTS, seed=1000 + seed, size=SIZE, shares=shares)
    columns = Columns(attributes=("modality", "eye", "visit", "years"))
    dataset = read_dataset(folder, TASKS, columns=columns)
    found = pretrain(dataset, ALL, root / "teacher", cache, seed)
    fundus = dataset.having({"modality": "fundus"})
    tasks = tuple(fundus.task(name) for name in (*MEASURES, CODE))
    teacher = teacher_of(found.network, "fundus", tasks, found.scale)
    scans = found.records.subset("test").scans["carotid"]
    pictures = prepare_arrays(scans.dataset, ENCODINGS["carotid"].input, cache=cache)
    return Classroom(
        found=found,
        teacher=teacher,
        fundus=fundus.only([task.name for task in tasks], labelled=False),
        labelled=fundus,
        carotid=embed(found.network, {"carotid": pictures})["carotid"].across,
        cache=cache,
    )


def teach(room: Classroom, folder: Path, lessons: Lessons, seed: int) -> dict[str, dict[str, float]]:
    """Distil a student, quantise it, and measure teacher, float student and int8 student."""
    answers = teacher_answers(room.teacher, room.fundus.subset("train"), cache=room.cache, hint=False)
    folder.mkdir(parents=True, exist_ok=True)
    network = distil_student(
        room.fundus, SHAPE, PLAN, answers,
        taught_on=room.teacher.input, taught_scale=room.teacher.target_scale, lessons=lessons,
        folder=folder, cache=room.cache, seed=seed, report=quiet,
    )  # fmt: skip
    forget(folder)
    int8 = folder / "int8"
    int8.mkdir(exist_ok=True)
    quantise_student(
        folder, room.fundus, split="calibration", images=CALIBRATION, min_images=CALIBRATION, method="minmax",
        opset=20, weight_bits=8, folder=int8, cache=room.cache, progress=lambda done, total, text: None,
    )  # fmt: skip
    session = open_session(OnnxRuntimeOptions(threads=1), {"model.onnx": (int8 / INT8_GRAPH).read_bytes()})
    student = load_network(folder)
    codes: dict[str, dict[str, NDArray[np.float32]]] = {form: {} for form in FORMS}
    for part in ("train", "test"):
        arrays = prepare_arrays(room.labelled.subset(part), network.input, cache=room.cache)
        for form, network_of in (("teacher", room.teacher), ("float", student)):
            codes[form][part] = answer_images(network_of, arrays.images, hint=False).raw[CODE]
        codes["int8"][part] = ask(session.run, student, arrays.images).raw[CODE]
    return {form: measure(room, codes[form], codes["teacher"]["test"]) for form in FORMS}


def measure(room: Classroom, codes: dict[str, NDArray[np.float32]], teacher: NDArray[np.float32]) -> dict[str, float]:
    """Retrieval, probes and agreement of one form."""
    records = room.found.records.subset("test")
    first, second = pairs_along(records.scans["fundus"])
    code = codes["test"]
    found = {"pair": retrieval.mean_percentile(retrieval.cosine(code[first], code[second]), np.arange(len(first)))}
    (here, there), *_ = pairs_across(records, ROLES).values()
    across = retrieval.cosine(code[here], room.carotid[there])
    found["across"] = retrieval.mean_percentile(across, np.arange(len(here)))
    found["cosine"] = float(np.nanmean((retrieval.unit(code) * retrieval.unit(teacher)).sum(axis=1)))
    train, test = (retrieval.unit(codes[part]) * np.sqrt(code.shape[1]) for part in ("train", "test"))
    areas = []
    for name in OUTCOMES:
        y, wanted = (room.labelled.subset(part).scalars[name][:, 0] for part in ("train", "test"))
        known, asked = ~np.isnan(y), ~np.isnan(wanted)
        model = LogisticRegression(C=0.01, max_iter=500).fit(train[known], y[known])
        areas.append(roc_auc_score(wanted[asked], model.decision_function(test[asked])))
    return found | {"auc": float(np.mean(areas))}


def read_results(out: Path) -> list[Result]:
    """What is finished."""
    path = out / "results.jsonl"
    return [msgspec.json.decode(line, type=Result) for line in path.read_bytes().splitlines()] if path.exists() else []


def table(results: list[Result]) -> str:
    """Markdown: means by form, paired losses, paired differences between the arms, gates."""
    seeds = sorted({r.seed for r in results if {q.arm for q in results if q.seed == r.seed} >= set(ARMS)})
    if len(seeds) < 2:
        return f"{len(seeds)} finished seed(s): nothing to compare yet"
    by = {(r.seed, r.arm): r.forms for r in results}

    def of(arm: str, form: str, key: str) -> NDArray[np.float64]:
        return np.array([by[seed, arm][form][key] for seed in seeds])

    rows = [("teacher", "all", "teacher")] + [(form, arm, form) for arm in ARMS for form in ("float", "int8")]
    head = f"| {' | '.join(METRICS)} |"
    lines = [f"{len(seeds)} seeds. Means and standard deviations over seeds.", "", f"| form | arm {head}"]
    lines.append("|---" * (len(METRICS) + 2) + "|")
    for what, arm, form in rows:
        cells = [of("both" if form == "teacher" else arm, form, key) for key in METRICS.values()]
        lines.append(f"| {what} | {arm} | " + " | ".join(f"{x.mean():.3f} ± {x.std(ddof=1):.3f}" for x in cells) + " |")
    lines += ["", f"| difference {head}", "|---" * (len(METRICS) + 1) + "|"]
    pairs = [(f"{arm}: float less teacher", (arm, "float"), (arm, "teacher")) for arm in ARMS]
    pairs += [(f"{arm}: int8 less float", (arm, "int8"), (arm, "float")) for arm in ARMS]
    pairs += [
        (f"both less {arm}, float", ("both", "float"), (arm, "float")) for arm in ("values", "relations", "neither")
    ]
    for told, one, other in pairs:
        differences = [paired(of(*one, key) - of(*other, key)) for key in METRICS.values()]
        lines.append(f"| {told} | " + " | ".join(differences) + " |")
    lost = {key: float((of("both", "teacher", key) - of("both", "float", key)).mean()) for key in METRICS.values()}
    more = {key: float((of("both", "float", key) - of("both", "int8", key)).mean()) for key in METRICS.values()}
    chance = float(of("neither", "float", "across").mean())
    gates = [(f"`both` loses less than 0.05 of {key}", lost[key], lost[key] < 0.05) for key in ("pair", "across")]
    gates.append(("`both` loses less than 0.03 of probe AUC", lost["auc"], lost["auc"] < 0.03))
    gates += [(f"int8 loses less than 0.02 of {key}", more[key], more[key] < 0.02) for key in ("pair", "across", "auc")]
    gates.append(("`neither` within 0.05 of chance, fundus to carotid", chance, abs(chance - 0.5) < 0.05))
    lines += ["", "| gate | found | met |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {x:.3f} | {'yes' if met else '**no**'} |" for what, x, met in gates])


if __name__ == "__main__":
    main()
