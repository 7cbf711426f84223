"""The hash of a large file is kept as long as the file is the same, and not a moment longer."""

import hashlib
import os
import time

import pytest

from colld_fairseq.checkpoints import hash_cache
from colld_fairseq.checkpoints.files import content_hash
from colld_fairseq.checkpoints.hash_cache import entry_of, sha256_of


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, and as one that has not changed for long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(hash_cache, "LEAST_BYTES", 1000)
    monkeypatch.setattr(hash_cache, "SETTLED_NS", 0)
    path = tmp_path / "weights.pt"
    path.write_bytes(bytes(range(256)) * 10)
    return path


def is_right(path):
    """As another process would get it."""
    hash_cache._hash.cache_clear()
    return sha256_of(path) == hashlib.sha256(path.read_bytes()).digest()


def is_read(path):
    """Whether the next process reads the file: its kept hash is exchanged for another."""
    entry = entry_of(str(path.resolve()))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    entry.write_text(entry.read_text().replace(right, "00" * 32))
    hash_cache._hash.cache_clear()
    return sha256_of(path) != bytes(32)


def test_it_is_kept_and_is_the_hash_of_all_bytes(large):
    assert is_right(large) and not is_read(large)


def test_a_cache_key_is_what_it_was_before(large):
    """sha256 over the files' hashes: existing caches of features stay readable."""
    other = large.with_name("config.json")
    other.write_text("{}")
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in (other, large))
    assert content_hash([other, large]) == hashlib.sha256(digests).hexdigest()


def written_in_place(path):
    """Same size, and the time of writing put back."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(path):
    """By a file of the same size and time."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [written_in_place, exchanged])
def test_a_file_that_changed_is_read_again(change, large):
    assert is_right(large)
    time.sleep(0.02)  # the clock of the file system ticks
    change(large)
    assert is_right(large)


def test_a_file_that_changed_just_now_is_not_trusted(large, monkeypatch):
    monkeypatch.setattr(hash_cache, "SETTLED_NS", 10**10)
    assert is_right(large) and not entry_of(str(large.resolve())).exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"path": 1, "identity": 2, "sha256": 3}', "\x00"])
def test_a_damaged_entry_counts_as_none(content, large):
    assert is_right(large)
    entry_of(str(large.resolve())).write_text(content)
    assert is_right(large) and not is_read(large)


def test_where_nothing_can_be_kept_it_is_computed(large, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(large))  # no folder
    assert is_right(large)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # a user of whom the system knows nothing
    monkeypatch.chdir(large.parent)
    assert is_right(large) and not (large.parent / "~").exists()


def test_small_files_leave_no_entry(large, monkeypatch):
    monkeypatch.setattr(hash_cache, "LEAST_BYTES", 10**6)
    assert is_right(large) and not entry_of(str(large.resolve())).exists()
