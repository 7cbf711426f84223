"""Limits of control groups, read from files as Linux has them."""

import pytest

from colld_fairseq import profiling
from colld_fairseq.container_memory import free_of_limits

CPU = profiling.torch.device("cpu")


@pytest.fixture
def write(tmp_path):
    """A group's limit, what it uses and what of that are cached files."""

    def make(group, version, limit, used, cached):
        folder = tmp_path / "root" / group
        folder.mkdir(parents=True, exist_ok=True)
        names = {1: ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")}
        first, second, third = names.get(version, ("max", "current", "inactive_file"))
        (folder / f"memory.{first}").write_text(f"{limit}\n")
        (folder / f"memory.{second}").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{third} {cached}\nfile 9\n")

    return make


@pytest.mark.parametrize(
    "version, line, group", [(2, "0::/pod/job", "pod"), (1, "4:cpu,memory:/pod/job", "memory/pod"), (2, "0::/", "")]
)
def test_the_limit_of_a_group_around_it_holds(version, line, group, write, tmp_path):
    (tmp_path / "groups").write_text(f"9:name=systemd:/\n{line}\n")
    write(group, version, 8 * 10**9, 3 * 10**9, 10**9)
    if line.endswith("job"):
        write(f"{group}/job", version, "max", 2 * 10**9, 0)
    assert list(free_of_limits(tmp_path / "groups", tmp_path / "root")) == [6 * 10**9]


def test_without_groups_nothing_is_limited(tmp_path):
    assert not list(free_of_limits(tmp_path / "none", tmp_path))


def test_what_the_machine_has_left_is_not_more_than_the_limit_leaves(monkeypatch):
    before = profiling.usable_memory(CPU)
    if before is None:
        pytest.skip("this system does not tell the memory of a process")
    monkeypatch.setattr(profiling, "free_of_limits", lambda: iter([10**6, 2 * 10**6]))
    limited = profiling.usable_memory(CPU)
    assert limited < before and limited <= profiling.memory_in_use(CPU) + 10**6
