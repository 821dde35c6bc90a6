"""Shards are written whole, read at random places, and refused when damaged."""

import pytest

from train.data.shards import (
    INDEX_NAME,
    ShardWriter,
    count_samples,
    expand_braces,
    find_shards,
    iterate_members,
    read_at,
    read_index,
    scan_shard,
    split_name,
)
from vila_hd.errors import VilaHDError


def write(path, count=3):
    with ShardWriter(path) as writer:
        for i in range(count):
            writer.add(f"p{i}", {"jpg": bytes([i]) * (i + 1), "json": b"{}"})


def test_braces_expand_like_a_shell():
    assert expand_braces("a/{08..11}.{x,y}") == [f"a/{n}.{e}" for n in ("08", "09", "10", "11") for e in "xy"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", ("a", "jpg")), ("d/a.b.JSON", ("d/a", "b.json")), ("d.x/a.png", ("d.x/a", "png"))],
)
def test_key_ends_at_the_first_dot_of_the_last_part(name, expected):
    assert split_name(name) == expected


def test_members_are_read_at_their_places(tmp_path):
    write(tmp_path / "a.tar")
    samples = scan_shard(tmp_path / "a.tar")
    assert list(samples) == ["p0", "p1", "p2"]
    assert read_at(tmp_path / "a.tar", samples["p2"]["jpg"]) == b"\2\2\2"
    members = [(key, extension) for key, extension, _ in iterate_members(tmp_path / "a.tar")]
    assert members == [(f"p{i}", extension) for i in range(3) for extension in ("jpg", "json")]


def test_index_counts_without_scanning_and_is_optional(tmp_path):
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar", 5)
    assert read_index(tmp_path) == {"a.tar": 3, "b.tar": 5}
    (tmp_path / INDEX_NAME).unlink()
    assert count_samples(find_shards(str(tmp_path))) == [3, 5]


def test_failed_shard_leaves_nothing(tmp_path):
    def fail():
        with ShardWriter(tmp_path / "a.tar") as writer:
            writer.add("x", {"json": b"{}"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_same_samples_make_the_same_bytes(tmp_path):
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("keep", [10, 700, 2100])
def test_cut_off_shard_is_refused(tmp_path, keep):
    write(tmp_path / "a.tar")
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:keep])
    with pytest.raises(VilaHDError, match=r"a\.tar"):
        list(iterate_members(tmp_path / "a.tar"))


def test_missing_shard_is_named(tmp_path):
    write(tmp_path / "0.tar")
    assert find_shards(f"{tmp_path}/0.tar::{tmp_path}/*.tar") == [tmp_path / "0.tar"] * 2
    with pytest.raises(VilaHDError, match=r"1\.tar: no such shard"):
        find_shards(f"{tmp_path}/{{0..1}}.tar")
    with pytest.raises(VilaHDError, match="no such shard"):
        find_shards(f"{tmp_path}/*.zip")
