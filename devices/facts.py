"""The facts of a profile by their dotted paths, and the source of each.

A fact is a number outside the settings, a set of instructions, a compute capability, and a list of operators. Items of
a list stand under their own name: `accelerators.gpu.peak_tops.int8`, `cpu.instructions.avx_vnni`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from .parts import Provenance
from .reading import Tree

if TYPE_CHECKING:
    from .profile import Profile

PARTS = ("cpu", "memory", "accelerators", "power_modes", "derate", "budget")  # that hold facts
LISTS = ("instructions", "operators", "activations", "engine_versions")  # that are facts
WORDS = ("compute_capability",)  # texts that are facts


def facts(profile: Profile) -> tuple[str, ...]:
    """Give the dotted paths of all facts, in the order of the file's fields."""
    tree: Tree = msgspec.to_builtins(profile)
    assert isinstance(tree, dict)
    found = [name for part in PARTS for name in _walk(tree[part], part)]
    if profile.derate.compute == 1.0:  # nothing is known, so nothing is said
        found.remove("derate.compute")
    if profile.derate.bandwidth == 1.0:
        found.remove("derate.bandwidth")
    return tuple(found)


def covered(name: str, provenance: Mapping[str, Provenance]) -> Provenance | None:
    """Find a fact's source: its own, or for one of the instructions that of the whole set."""
    whole = name.rpartition(".")[0]
    return provenance.get(name) or (provenance.get(whole) if whole == "cpu.instructions" else None)


def known_names(profile: Profile) -> frozenset[str]:
    """Give every path that may have a source."""
    return frozenset((*facts(profile), "cpu.instructions"))


def _walk(tree: Tree, path: str) -> list[str]:
    name = path.rpartition(".")[2]
    if isinstance(tree, dict):
        return [found for key, value in tree.items() for found in _walk(value, f"{path}.{key}")]
    if isinstance(tree, list | tuple) and name == "instructions":
        return [f"{path}.{one}" for one in tree]
    if isinstance(tree, list | tuple) and name in LISTS:
        return [path] if tree else []
    if isinstance(tree, list | tuple):
        return [
            found
            for index, item in enumerate(tree)
            if isinstance(item, dict)
            for found in _walk(item, f"{path}.{item.get('name', index)}")
        ]
    number = isinstance(tree, int | float) and not isinstance(tree, bool)
    return [path] if number or (name in WORDS and tree is not None) else []
