"""Versions and specifiers: PEP 440's release numbers, with packaging as the oracle."""

from __future__ import annotations

import itertools

import pytest

from foveola.runtime.versions import allows, release, specifier_fault

specifiers = pytest.importorskip("packaging.specifiers")

VERSIONS = ("9.9", "10", "10.0", "10.3", "10.3.0", "10.3.1", "10.12", "11.0.2", "11.3.0", "11.4.1", "11.4.1.24", "12.0")
SPECIFIERS = (
    "", ">=10.3", ">=10.3,<11", "<10.8", ">=11.4.1", "==10.3", "==10.3.*", "!=11.0.*", "!=10.3.0", ">10.3", "<=10.12",
    ">=10.3,!=11.0.*,!=11.1.*,!=11.2.*,!=11.3.*,<12", "==10", "==10.*",
)  # fmt: skip


@pytest.mark.parametrize(("specifier", "version"), list(itertools.product(SPECIFIERS, VERSIONS)))
def test_versions_are_allowed_as_packaging_allows_them(specifier: str, version: str) -> None:
    assert allows(specifier, version) == specifiers.SpecifierSet(specifier).contains(version)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2026.4.1-22982-e213a147257-releases/2026/4", (2026, 4, 1)), ("v1.2", (1, 2)), ("1.31.1+cpu", (1, 31, 1)),
     ("none", ())],
)  # fmt: skip
def test_builds_and_labels_are_cut_off(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


@pytest.mark.parametrize("text", ["~=1.2", "10.3", ">=10.*", "=>1", ">=1;<2", "==", ">=1.x"])
def test_what_is_no_specifier_is_told(text: str) -> None:
    assert repr(text) in specifier_fault(text)
