"""Laws of lending: a finished step under a second name is the same files, whole or not there."""

from __future__ import annotations

from pathlib import Path

from foveola.toolkit.search.pool import link_tree, share_cache


def test_a_lent_step_is_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "teacher-1"
    (source / "inside").mkdir(parents=True)
    (source / "inside/model").write_bytes(b"weights")

    link_tree(source, tmp_path / "other")
    link_tree(source, tmp_path / "other")  # somebody else was first

    assert (tmp_path / "other/inside/model").samefile(source / "inside/model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "teacher-1"]


def test_a_cache_is_shared(tmp_path: Path) -> None:
    share_cache(tmp_path / "base", tmp_path / "worker")
    share_cache(tmp_path / "base", tmp_path / "worker")
    (tmp_path / "worker/cache/answers").write_bytes(b"x")

    assert (tmp_path / "base/cache/answers").read_bytes() == b"x"
