"""What has to be done around a fork is done, on both sides; tests/faults has real forks."""

from __future__ import annotations

import os
import threading

import pytest

from channels_sqlite._storing import forks


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but the test's own members."""
    monkeypatch.setattr(forks, "_forks", forks._Forks())


class Member(forks.Forkable):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        forks.register(self)

    def before_fork(self) -> None:
        self.told.append("before")

    def after_fork_in_parent(self) -> None:
        self.told.append("parent")

    def after_fork_in_child(self) -> None:
        self.told.append("child")


def is_quiet() -> bool:
    """Return True if no other thread can open or close a connection."""
    had: list[bool] = []
    thread = threading.Thread(target=lambda: had.append(forks.quiet().acquire(blocking=False)))
    thread.start()
    thread.join()
    return had == [False]


def test_the_parent_rests_from_before_a_fork_until_after_it() -> None:
    members = [Member(), Member()]
    forks._before()
    assert is_quiet()
    assert [each.told for each in members] == [["before"]] * 2
    forks._after_in_parent()
    assert not is_quiet()
    assert [each.told for each in members] == [["before", "parent"]] * 2


def test_the_child_begins_with_locks_and_members_of_its_own() -> None:
    member = Member()
    forks._before()
    forks._after_in_child()
    assert member.told == ["before", "child"]
    assert not is_quiet()
    assert forks._forks.members() == []
    Member()


def test_a_member_that_comes_while_the_process_forks_is_not_told_to_go_on() -> None:
    """Another thread has made it between the hooks; it holds nothing that it could give up."""
    member = Member()
    forks._before()
    late = Member()
    forks._after_in_parent()
    assert late.told == []
    assert member.told == ["before", "parent"]


def test_a_fork_without_hooks_is_noticed_once_by_the_process_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = Member()
    forks.notice()
    assert member.told == []
    monkeypatch.setattr(forks._forks, "pid", os.getpid() - 1)
    for _ in range(3):
        forks.notice()
    assert member.told == ["child"]
