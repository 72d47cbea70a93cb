"""Engine and worker: deadlines, restarts, budgets; an engine that obeys the test stands in (`obedient.py`)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import msgspec
import pytest

from foveola.runtime.serve.frames import Refused
from foveola.runtime.serve.jobs import FullError
from foveola.runtime.serve.keeper import DeadlineError, EngineFailedError, UnavailableError

from .conftest import QUICK, Parts, wait_until

Make = Callable[..., Parts]


def test_images_are_answered_refused_or_unfit_and_say_so(parts: Make) -> None:
    made = parts()

    jobs = [made.ended(made.desk.submit(image, "http").id) for image in (b"good", b"refuse", b"unfit")]

    assert [job.state for job in jobs] == ["answered", "refused", "unfit"]
    assert jobs[1].error == "image: cannot be read"
    answer = msgspec.json.decode(jobs[0].answer)
    assert answer["prediction"] == {"of": "good"}
    assert answer["bundle"]["digest"] == "d" * 64


def test_an_image_that_kills_the_engine_is_given_up_and_the_next_is_answered(parts: Make) -> None:
    made = parts()
    poison = made.desk.submit(b"crash", "http").id
    good = made.desk.submit(b"good", "http").id

    assert made.ended(good).state == "answered"

    job = made.ended(poison)
    assert (job.state, job.answer) == ("failed", None)
    assert job.error == "unavailable: the engine failed 2 times on it"
    assert made.asks() == ["crash", "crash", "good"]


def test_an_image_that_takes_too_long_is_given_up_within_its_deadline(parts: Make) -> None:
    made = parts()
    begun = time.monotonic()

    with pytest.raises(DeadlineError, match=r"no answer within 0.5 s"):
        made.desk.answer(b"hang")

    assert time.monotonic() - begun < 2
    assert b'"of":"good"' in made.desk.answer(b"good")  # type: ignore[operator]


def test_an_engine_that_does_not_even_read_is_ended_too(parts: Make) -> None:
    made = parts()
    process = made.keeper._process
    assert process
    os.kill(process.pid, signal.SIGSTOP)

    with pytest.raises(EngineFailedError):
        made.desk.answer(b"x" * 2**20)

    wait_until(lambda: made.keeper.started is not None)
    assert b'"of":"good"' in made.desk.answer(b"good")  # type: ignore[operator]


def test_an_answer_never_belongs_to_an_earlier_image(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, deadline_s=0.1, restarts=100))

    for i in range(3):  # `slow` answers after its deadline
        with pytest.raises(DeadlineError):
            made.desk.answer(b"slow%d" % i)
        wait_until(lambda: made.keeper.started is not None)
        answer = None
        while answer is None:
            try:
                answer = made.desk.answer(b"good%d" % i)
            except EngineFailedError:  # a loaded machine
                continue
        assert b'"of":"good%d"' % i in answer  # type: ignore[operator]


def test_a_process_that_dies_in_its_sleep_is_started_anew_before_somebody_waits(parts: Make) -> None:
    made = parts()
    first = made.keeper._process
    assert first

    first.kill()

    wait_until(lambda: made.keeper._process not in (None, first) and made.keeper.started is not None)
    assert made.keeper.restarts == 1


def test_after_repeated_failure_it_is_unavailable_and_comes_back_by_itself(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, pause_s=1.0))
    broken = made.asked.with_name(made.asked.name + ".broken")
    for _ in range(3):
        with pytest.raises(EngineFailedError):
            made.desk.answer(b"crash")

    broken.touch()
    with pytest.raises(UnavailableError, match="unavailable after 3 failures of the engine: .* ended with code 3"):
        made.desk.answer(b"good")
    with pytest.raises(UnavailableError):
        made.desk.submit(b"good", "dicom")
    assert made.desk.readiness()["ready"] is False
    wait_until(lambda: "the self-test failed" in made.keeper.fault)
    broken.unlink()

    wait_until(lambda: made.keeper.started is not None)
    assert b'"of":"good"' in made.desk.answer(b"good")  # type: ignore[operator]


def test_an_engine_that_fails_its_self_test_answers_nothing_and_says_why(parts: Make) -> None:
    made = parts(started=False)
    made.asked.with_name(made.asked.name + ".broken").touch()
    made.worker.start()
    wait_until(lambda: "self-test" in made.keeper.fault)

    with pytest.raises(UnavailableError, match="tiny: the self-test failed"):
        made.desk.answer(b"good")
    with pytest.raises(UnavailableError, match="tiny: the self-test failed"):
        made.desk.submit(b"good", "dicom")

    assert "tiny: the self-test failed" in made.desk.readiness()["error"]
    assert made.asks() == []


def test_nothing_is_taken_before_the_first_self_test(parts: Make) -> None:
    made = parts(started=False)

    with pytest.raises(UnavailableError, match="has not been started yet"):
        made.desk.submit(b"good", "dicom")


def test_jobs_wait_on_disk_while_the_engine_is_down(parts: Make) -> None:
    made = parts(started=False)
    made.queue.submit(b"good", "dicom", "d" * 64)

    made.worker.start()

    assert made.ended(made.queue.submit(b"good", "dicom", "d" * 64).id).state == "answered"
    assert made.asks() == ["good"]


def test_too_many_who_wait_are_told_at_once(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, deadline_s=5))
    said: list[object] = []

    def ask(i: int) -> None:
        try:
            said.append(made.desk.answer(b"slow%d" % i))
        except FullError as error:
            said.append(str(error))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    full = [one for one in said if isinstance(one, str)]
    assert set(full) == {"4 requests wait already"}
    assert 3 <= len(full) <= 4  # one is being answered, four wait


def test_who_waits_and_what_lies_on_disk_take_turns(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, deadline_s=5), started=False)
    for i in range(3):
        made.queue.submit(b"slow disk%d" % i, "dicom", "")
    made.worker.start()
    wait_until(lambda: made.keeper.started is not None)
    threads = [threading.Thread(target=made.desk.answer, args=(b"slow wait%d" % i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: made.queue.counts()["queued"] == 0)

    ways = [words.split()[1][:4] for words in made.asks()]
    assert sorted(ways) == ["disk"] * 3 + ["wait"] * 3
    assert "waitwait" not in "".join(ways[: 2 * 2])  # while both wait, neither gets two turns in a row


def test_a_process_that_grew_too_large_is_started_anew_after_its_answer(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, memory_mib=40))
    first = made.keeper._process

    answer = made.desk.answer(b"good")

    assert not isinstance(answer, Refused)
    wait_until(lambda: made.keeper._process not in (None, first))
    assert made.keeper.restarts == 0  # that was no failure


def test_a_stop_lets_those_who_wait_have_their_answers_and_leaves_the_queue_on_disk(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, deadline_s=5))
    said: list[object] = []
    thread = threading.Thread(target=lambda: said.append(made.desk.answer(b"slow")))
    thread.start()
    wait_until(lambda: bool(made.asks()))
    job = made.desk.submit(b"later", "dicom")

    made.worker.stop()
    thread.join()
    made.worker.join(5)

    assert b'"of":"slow"' in said[0]  # type: ignore[operator]
    assert made.queue.get(job.id).state == "queued"  # type: ignore[union-attr]
    with pytest.raises(UnavailableError, match="stopping"):
        made.desk.submit(b"new", "dicom")


def test_results_for_the_peer_are_stored_with_the_answer(parts: Make) -> None:
    made = parts(kinds=("sr",))

    name = made.desk.submit(b"good", "dicom").id
    made.ended(name)

    assert [(one.file, one.job) for one in made.queue.due()] == [("good.dcm", name)]


def test_another_picture_with_the_same_uid_is_refused_and_leaves_the_first_ones_result_alone(parts: Make) -> None:
    made = parts(kinds=("sr",))
    first = made.desk.submit(b"good@7", "dicom").id
    made.ended(first)

    second = made.ended(made.desk.submit(b"other@7", "folder").id)

    assert (second.state, second.answer) == ("refused", None)
    assert second.error.startswith("image: has the SOP Instance UID of another image")
    assert [(one.file, one.job) for one in made.queue.due()] == [("7.dcm", first)]
    assert (made.queue.results / "7.dcm").read_bytes() == b"good@7"
    assert list(made.queue.made.iterdir()) == []
    assert 'foveola_answers_total{outcome="refused"} 1' in made.metrics.text()
    again = made.queue.submit(b"other@7", "folder", second.bundle)
    assert (again.state, again.error) == ("refused", second.error)


def test_a_copy_of_a_picture_under_its_own_uid_is_answered(parts: Make) -> None:
    made = parts(kinds=("sr",))
    for words in (b"good@7", b"good@7 with another header", b"good@8"):
        assert made.ended(made.desk.submit(words, "dicom").id).state == "answered"

    assert sorted(one.file for one in made.queue.due()) == ["7.dcm", "8.dcm"]


def test_without_a_peer_nobody_is_refused_for_a_uid(parts: Make) -> None:
    made = parts()

    jobs = [made.desk.submit(words, "dicom").id for words in (b"good@7", b"other@7")]

    assert [made.ended(job).state for job in jobs] == ["answered", "answered"]


def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(parts: Make) -> None:
    made = parts(started=False)
    name = made.queue.submit(b"good", "dicom", "").id
    made.queue._base.execute("PRAGMA query_only = ON")
    made.worker.start()
    wait_until(lambda: made.keeper.started is not None)
    time.sleep(0.2)
    assert made.worker.is_alive()

    made.queue._base.execute("PRAGMA query_only = OFF")

    assert made.ended(name).state == "answered"


def test_a_full_disk_does_not_keep_those_who_wait_from_their_answers(parts: Make) -> None:
    made = parts(msgspec.structs.replace(QUICK, deadline_s=5))
    made.queue.submit(b"slow", "dicom", "")
    made.queue._base.execute("PRAGMA query_only = ON")
    try:
        said = [made.desk.answer(b"good %d" % i) for i in range(3)]
    finally:
        made.queue._base.execute("PRAGMA query_only = OFF")

    assert all(isinstance(one, bytes) for one in said)


def test_a_worker_that_hangs_beyond_every_deadline_shows_it(parts: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parts()
    assert not made.worker.hangs

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)

    assert made.worker.hangs
