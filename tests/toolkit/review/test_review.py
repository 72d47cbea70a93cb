"""Laws of the training report: all numbers in one file, one page that loads nothing, refusals in one line."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import torch
from small import SPEC, TASKS, TEACHER, squares

from foveola.runtime.errors import FoveolaError
from foveola.runtime.task import Task
from foveola.toolkit.checkpoint import Epoch
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import HISTORY, LOCKED, lock_teacher
from foveola.toolkit.fresh import new_network
from foveola.toolkit.json_files import write_json
from foveola.toolkit.models.network import save_network
from foveola.toolkit.plan import make_plan
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.recipe import Recipe, parse_recipe
from foveola.toolkit.review.figures import Line, axis_of, curve_figure, interval_row, spread
from foveola.toolkit.review.page import render_review
from foveola.toolkit.review.record import Review
from foveola.toolkit.review.teachers import PAGE, REVIEW, review_teachers, review_training
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.external import External, build_external
from foveola.toolkit.work import Work
from foveola.toolkit.yaml12 import FaultsError


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; complains about tags that do not close."""

    VOID = frozenset({"meta", "br", "img", "col", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.extend((tag, name, value or "") for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def trained(epochs: int = 4) -> list[Epoch]:
    scores = [0.1, 0.5, 0.4, 0.3]
    return [
        Epoch(n, 1e-3 / (n + 1), {"bright": 0.7 - 0.1 * n, "square": 1.2}, scores[n], {"bright": scores[n]})
        for n in range(epochs)
    ]


def visited() -> list[Epoch]:
    order = ["bright", "square", "square", "bright"]
    return [
        Epoch(
            n,
            1e-4,
            {task: 0.5, "l2sp": 0.01 * n},
            0.3,
            {"bright": [0.2, 0.7, 0.5, 0.6][n], "square": 0.1 * n},
            task=task,
            round=n // 2,
            measures={"drift": 0.1 * (n + 1), "visit_drift": 0.1, "end/bright": 0.2},
        )
        for n, task in enumerate(order)
    ]


def contrasted() -> list[Epoch]:
    scores: list[dict[str, float]] = [{}, {"bright": 0.4}, {}, {"bright": 0.6}]
    return [Epoch(n, 0.01, {"contrast": 4.0 - n}, 0.0, scores[n], measures={"queue": 1.0}) for n in range(4)]


def make_teacher(folder: Path, dataset: Dataset, seed: int = 0) -> Path:
    """The folder of a finished teacher with random weights."""
    folder.mkdir()
    network = new_network("teacher", dataset, TEACHER, seed).eval()
    save_network(network, folder)
    write_json(folder / LOCKED, lock_teacher(network, dataset))
    write_json(folder / HISTORY, trained())
    return folder


def make_training(folder: Path, history: list[Epoch], *files: str) -> Path:
    folder.mkdir()
    write_json(folder / HISTORY, history)
    for name in files:
        (folder / name).write_bytes(b"")
    return folder


class Made(msgspec.Struct):
    review: Review
    html: str
    root: Path
    dataset: Dataset


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two random teachers, one of them of three tasks only, and one training of each kind, on the train split."""
    root = tmp_path_factory.mktemp("review")
    dataset = squares(root / "data")
    few = dataset.only(("bright", "grade", "square"), labelled=False)
    teachers = {"all": make_teacher(root / "a", dataset), "few <b>": make_teacher(root / "b", few, 1)}
    trainings = {
        "all": root / "a",
        "cl": make_training(root / "c", visited()),
        "moco": make_training(root / "d", contrasted(), "backbone.safetensors"),
    }
    out = root / "out"
    out.mkdir()
    review = review_teachers(
        teachers, trainings, dataset, split="train", resamples=100, pictures=2, seed=3, folder=out, title="try <i>"
    )
    return Made(review, (out / PAGE).read_text(encoding="utf-8"), root, dataset)


def test_the_file_holds_all_numbers_with_method_and_n(made: Made) -> None:
    review = msgspec.json.decode((made.root / "out" / REVIEW).read_bytes(), type=Review)

    assert review == made.review
    assert [task.name for task in review.tasks] == [task.name for task in TASKS]
    for teacher in review.teachers:
        assert all(measure.method and measure.cases and measure.patients for measure in teacher.measures)
        mains = {measure.task for measure in teacher.measures if measure.main}
        assert mains == {measure.task for measure in teacher.measures}
    assert (review.images, review.patients, review.resamples) == (8, 8, 100)


def test_the_page_is_well_formed_and_escapes_names(made: Made) -> None:
    page = Page(made.html)

    assert made.html.startswith("<!DOCTYPE html>\n<html lang=")
    assert page.open == []
    assert "few <b>" in page.text
    assert "<b>few" not in made.html
    assert "try <i>" in page.text
    for drawing in re.findall(r"<svg.*?</svg>(?!</)", made.html, re.DOTALL):
        if drawing.count("<svg") == 1:
            ElementTree.fromstring(drawing)


def test_the_page_loads_nothing_and_has_no_script(made: Made) -> None:
    page = Page(made.html)
    loading = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
    targets = [value for _, name, value in page.attributes if name in loading]
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))

    assert targets
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in targets)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", made.html))
    assert "default-src 'none'" in policy
    assert "<script" not in made.html
    names = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= names


def test_teachers_of_one_task_stand_side_by_side(made: Made) -> None:
    head = made.html[made.html.index('<table class="main">') : made.html.index("</table>")]

    assert "all" in head
    assert "few &lt;b&gt;" in head
    assert head.count('<td class="n">') == 2 * len(re.findall(r'<th scope="row">', head))
    assert '<span class="soft">–</span>' in head  # not every teacher answers every task


def test_too_few_patients_are_said_on_the_page(made: Made) -> None:
    assert "with fewer than 10 no interval is trusted" in Page(made.html).text


def test_a_training_that_forgets_says_how_much(made: Made) -> None:
    continual = next(one for one in made.review.trainings if one.name == "cl")

    assert continual.kind == "continual"
    assert continual.forgetting == pytest.approx({"bright": 0.1, "square": 0.0})
    assert continual.mean_forgetting == pytest.approx(0.05)
    assert "mean forgetting 0.050" in Page(made.html).text
    assert [one.kind for one in made.review.trainings] == ["train", "continual", "pretrain"]


def test_the_epoch_that_was_kept_is_marked(made: Made) -> None:
    supervised = next(one for one in made.review.trainings if one.name == "all")

    assert supervised.kept == 2
    assert "weights kept after epoch 2" in Page(made.html).text
    assert 'class="kept"' in made.html


def test_each_tasks_own_visits_are_dots(made: Made) -> None:
    part = made.html[made.html.index(">cl <") :]
    drawing = part[part.index("<b>bright</b>") : part.index("<b>square</b>")]

    assert drawing.count('class="dot t0"') == 2  # bright was visited twice
    assert "visit&#39;s end" in drawing


def test_attention_is_told_by_a_word_and_not_by_colour_alone(made: Made) -> None:
    page = Page(made.html).text

    assert made.review.attention
    for look in made.review.attention:
        assert look.case in page
        assert look.right == (look.outcome in ("true positive", "right"))
    assert ("✓ right" in page) == any(look.right for look in made.review.attention)
    assert ("✕ wrong" in page) == any(not look.right for look in made.review.attention)
    assert {look.task for look in made.review.attention} <= {"bright", "signs", "corner", "grade"}
    assert made.html.count("data:image/png") == len(made.review.attention)


def test_equal_inputs_give_equal_bytes(made: Made, tmp_path: Path) -> None:
    review_teachers(
        {"all": made.root / "a", "few <b>": made.root / "b"},
        {"all": made.root / "a", "cl": made.root / "c", "moco": made.root / "d"},
        made.dataset,
        split="train",
        resamples=100,
        pictures=2,
        seed=3,
        folder=tmp_path,
        title="try <i>",
    )

    assert (tmp_path / PAGE).read_text(encoding="utf-8") == made.html


def test_a_teacher_from_elsewhere_has_no_pictures_and_says_so(made: Made, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dataset = made.dataset.only(("bright",), labelled=False)
    plan = External(library="timm", architecture="resnet10t", input=SPEC, tasks=dataset.tasks)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    write_json(foreign / "model.json", plan)
    write_json(foreign / LOCKED, {"bright": (0.5,)})
    from safetensors.torch import save_file

    teacher = build_external(plan)
    save_file(dict(teacher.module.network.state_dict()), foreign / "model.safetensors")  # type: ignore[union-attr]

    review = review_teachers(
        {"foreign": foreign}, {}, dataset, split="train", resamples=100, pictures=2, seed=3, folder=tmp_path
    )

    assert review.attention == ()
    assert "trained elsewhere" in review.teachers[0].notes[0]
    assert "trained elsewhere" in Page((tmp_path / PAGE).read_text(encoding="utf-8")).text


def test_a_page_of_trainings_alone_is_a_page(made: Made, tmp_path: Path) -> None:
    review = review_teachers(
        {}, {"cl": made.root / "c"}, made.dataset, split="train", resamples=100, pictures=2, seed=3, folder=tmp_path
    )

    page = Page(render_review(review))
    assert page.open == []
    assert "Main metrics" not in page.text


def test_a_split_without_labelled_cases_is_refused(tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data", tuple(task for task in TASKS if task.name == "side"))
    bare = msgspec.structs.replace(dataset, scalars={"side": np.full_like(dataset.scalars["side"], np.nan)})

    for data, split, words in (
        (bare, "test", "none of its 2 images has a reference for side"),
        (bare, "none", "no images"),
    ):
        with pytest.raises(FoveolaError, match=words):
            review_teachers({}, {}, data, split=split, resamples=100, pictures=0, seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task(name="other", kind="binary", classes=("no", "yes"), columns=("bright",)), "it answers .*, none of other"),
        (Task(name="bright", kind="multilabel", classes=("bright",)), "its task 'bright' is binary"),
    ],
)
def test_a_teacher_of_other_tasks_is_refused(made: Made, tmp_path: Path, task: Task, words: str) -> None:
    dataset = squares(made.root / "data", (task,))

    with pytest.raises(FoveolaError, match=f"teacher 'all': {words}"):
        review_teachers(
            {"all": made.root / "a"}, {}, dataset, split="train", resamples=100, pictures=0, seed=0, folder=tmp_path
        )


def test_a_step_without_a_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="training 'loaded': .* holds no history"):
        review_training("loaded", tmp_path)


# --- the stage ---

INPUT = "{height: 64, width: 64, channels: 1}"
RECIPE = f"""
name: tiny
device: generic-x86
data: {{stage: phantom, patients: 24, size: 64, shares: {{train: 0.3, val: 0.3, calibration: 0.2, test: 0.2}}}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
steps:
  a: {{stage: train, backbone: resnet10t, input: {INPUT}}}
  b: {{stage: train, backbone: resnet10t, input: {INPUT}, epochs: 2}}
  moco: {{stage: pretrain, backbone: resnet10t, input: {INPUT}}}
  report: {{stage: review, teachers: [a, b], trainings: [moco, a]}}
"""


def recipe(old: str = "", new: str = "") -> Recipe:
    assert old in RECIPE
    return parse_recipe(RECIPE.replace(old, new, 1).encode(), STAGES)


def check_ahead(found: Recipe, data: Path) -> None:
    step = found.steps[-1]
    step.stage.check_ahead(
        Work(
            step=step.name,
            digest="0" * 64,
            folder=data,
            inputs={},
            digests={},
            data=data,
            cache=data,
            recipe=found,
            reporter=SilentProgress(),
        )
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("teachers: [a, b]", "teachers: [moco]", "'moco' is a pretrain step"),
        ("trainings: [moco, a]", "trainings: [c]", "no step 'c'"),
        ("trainings: [moco, a]", "split: train", "split"),
        ("trainings: [moco, a]", "pictures: 99", "pictures"),
    ],
)
def test_a_wrong_recipe_is_refused_as_it_is_read(old: str, new: str, words: str) -> None:
    with pytest.raises(FaultsError, match=words):
        recipe(old, new)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("teachers: [a, b]", "teachers: [a, a]", "'a' is named twice"),
        (", teachers: [a, b], trainings: [moco, a]", "", "no step is named"),
    ],
)
def test_a_report_on_nothing_or_twice_on_one_is_refused_ahead(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(FoveolaError, match=words):
        check_ahead(recipe(old, new), tmp_path)


def test_the_names_of_the_steps_are_part_of_the_result(tmp_path: Path) -> None:
    def digest(found: Recipe) -> str:
        return make_plan(found, tmp_path)[-1].digest

    renamed = RECIPE.replace("  b: ", "  better: ").replace("[a, b]", "[a, better]")

    assert digest(recipe()) == digest(recipe())
    assert digest(recipe()) != digest(parse_recipe(renamed.encode(), STAGES))


# --- the drawings ---


def test_an_axis_has_round_ticks_and_holds_all_values() -> None:
    assert axis_of([0.13, 0.87], low=0, high=1).ticks == (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert axis_of([3.0]).share(3.0) <= 1
    for values in ([0.0, 0.0], [1e-8, 1e-3], [-0.2, 0.9], [], [float("nan"), 2.0]):
        axis = axis_of(values)
        assert axis.low < axis.high
        assert all(axis.low <= value <= axis.high for value in values if value == value)
        assert len(axis.ticks) <= 8


def test_names_at_the_curves_ends_do_not_lie_on_each_other() -> None:
    places = spread([10.0, 11.0, 12.0, 100.0], 12.0, 0.0, 100.0)

    assert places == sorted(places)
    assert min(np.diff(places)) >= 12
    assert max(places) <= 100


def test_curves_differ_in_dash_as_well_as_in_colour_and_are_described(made: Made) -> None:
    lines = [Line(name=f"task {n}", x=(1.0, 2.0), y=(0.1 * n, 0.2 * n), style=n) for n in range(4)]

    drawing = ElementTree.fromstring(curve_figure(lines, x_title="epoch", described="four curves", kept=2))

    assert drawing.get("aria-label") == "four curves"
    classes = [part.get("class", "") for part in drawing.iter()]
    assert [name for name in classes if name.startswith("line ")] == [f"line t{n}" for n in range(4)]
    dashes = re.findall(r"\.line\.t(\d) \{ [^}]*stroke-dasharray: ([^;]+);", made.html)
    assert len({dash for number, dash in dashes if int(number) < 4}) == 4


def test_a_missing_value_is_drawn_as_none() -> None:
    axis = axis_of([0.0, 1.0])

    assert 'aria-label="No value"' in interval_row(None, None, None, axis)
    assert "0.500, interval 0.400 to 0.700" in interval_row(0.5, 0.4, 0.7, axis)
