"""The report shows which images are fit and what the rule caught, and nothing where there is no rule."""

from __future__ import annotations

import msgspec

from foveola.runtime.fitness.manifest import Bound, Fitness, Trial
from foveola.toolkit.report.render import render_report

from .test_report import Page, make_evidence, make_manifest

FITNESS = Fitness(
    kind="fundus",
    bounds=(Bound(measure="focus", low=-2.25), Bound(measure="brightness", low=0.125, high=0.75)),
    false_alarms=0.025,
    typical=400,
    images=120,
    alarms=3,
    trials=(Trial(fault="no <disc>", images=48, caught=31, auc=0.912, auc_low=0.871, auc_high=0.953),),
)


def test_the_report_shows_bounds_and_trials_of_the_rule() -> None:
    manifest = msgspec.structs.replace(make_manifest(), fitness=FITNESS)

    page = render_report(make_evidence(), manifest)

    assert not Page(page).open
    section = page[page.index('<section id="fitness">') :].partition("</section>")[0]
    assert "2.5 % of good images may be refused; 3 of these were" in section
    assert "No &lt;disc&gt;" in section
    assert "0.912" in section
    assert "0.871 to 0.953" in section
    assert "2.250" in section


def test_a_bundle_without_a_rule_has_no_such_section() -> None:
    assert 'id="fitness"' not in render_report(make_evidence(), make_manifest())
