"""Finished steps lent from one run folder to another: the same files under a second name, never a second copy.

Folders of steps carry their identity in their name, and a finished one never changes; so a link is as good as the
thing. Decoded images and teacher's answers are shared by one `cache`.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ..plan import make_plan, run_folder
from ..recipe import Recipe

LENDING = ".lending"


def lend(recipe: Recipe, source: Path, runs: Path) -> None:
    """Link what `source` has of a recipe's finished steps into the recipe's run folder.

    Args:
        recipe: whose steps are looked for.
        source: a run folder.
        runs: the folder of runs that lacks them.
    """
    folder = run_folder(runs, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for planned in make_plan(recipe, runs):
        there = source / planned.folder.name
        if there.is_dir() and not planned.folder.exists():
            link_tree(there, planned.folder)


def share_cache(source: Path, folder: Path) -> None:
    """Let a run folder use another's cache."""
    cache, own = source / "cache", folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to(cache.absolute(), target_is_directory=True)


def link_tree(source: Path, target: Path) -> None:
    """Give a finished folder a second name, whole or not at all; copied where the disk cannot link."""
    partial = target.with_name(f"{target.name}{LENDING}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link)
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(partial)  # somebody else was first


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copy2(source, target)
