"""Members of groups: they stay while their process lives, they go with it, and a discard cuts
between the message before it and the one after it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from channels_sqlite._storing.schema import MEMBERSHIP, MESSAGE
from tests.conftest import Start
from tests.faults.peers import (
    EXAMPLES,
    SETTLES,
    Peer,
    bell_of,
    bells_in,
    stop,
    stopped,
)
from tests.rows import count, inbox_of, message, sql
from tests.storing.parts import locked
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no signals here"),
    pytest.mark.timeout(120 + EXAMPLES),
]
ROUNDS = max(60, EXAMPLES // 10)
DAYS = 2 * 86400.0
GONE = 15.0  # seconds, of which only a reader that is never swept takes so many


def test_a_member_gets_what_was_sent_while_it_was_one(start: Start, database: Path) -> None:
    """Three processes add and discard it, in random order, while it reads or stands still."""
    member, sender, third = [Peer(start) for _ in range(3)]
    channel = member.consume()
    is_member, number = False, 0
    for turn in range(ROUNDS):
        dice = random.Random(turn)
        stands_still = dice.random() < 0.5
        actors = [sender, third] if stands_still else [sender, third, member]
        steps = [dice.choice(["add", "discard", "send", "send"]) for _ in range(dice.randint(2, 8))]
        expected = []
        with stopped(member, database) if stands_still else nullcontext():
            for step in steps:
                if step == "send":
                    number += 1
                    sender.group_send("group", message(number))
                    expected += [number] if is_member else []
                else:
                    is_member = step == "add"
                    getattr(dice.choice(actors), f"group_{step}")("group", channel)
            number += 1
            sender.send(channel, message(number))
        assert member.heard(channel, number) == [*expected, number], (turn, stands_still, steps)
        assert sender.group_count("group") == is_member


# Processes that end


@pytest.mark.parametrize("witness", ["others send meanwhile", "the next one opens the file"])
def test_a_killed_process_is_forgotten(start: Start, database: Path, witness: str) -> None:
    """Its memberships, what waits for it and its bell go; one line at INFO says so. Afterwards no
    row is written for it.
    """
    doomed, other = Peer(start), Peer(start)
    channel, *_ = doomed.join_many("group", 200)
    stop(doomed.child, database)
    other.group_send("group", message(1))
    other.keep_sending()
    time.sleep(SETTLES)
    assert other.group_count("group") == 200  # stopped is not dead
    other.log()
    doomed.child.kill()
    if witness == "the next one opens the file":
        other.child.kill()  # and may have swept a moment before
        other = Peer(start)
    wait_until(lambda: other.group_count("group") == 0, GONE)
    other.group_send("group", message(2))
    wait_until(lambda: not bell_of(database, channel).exists(), GONE)
    waiting = f"{MESSAGE} where inbox = '{inbox_of(channel)}' and delivered_at is null"
    assert count(database, waiting) == 0
    told = [words for level, words in other.log() if level == "INFO" and "200" in words]
    assert len(told) == 1


def test_what_a_killed_process_leaves_behind_does_not_speak_for_it(
    start: Start, database: Path
) -> None:
    """A fork and a program that it has started live on, and are no readers. As long as it lives
    itself, nothing that they close takes anything from it.
    """
    doomed, survivor = Peer(start), Peer(start)
    channel = doomed.join("group")
    left = [doomed.leave_behind(how) for how in ("a fork", "a program")]
    try:
        survivor.keep_sending()
        time.sleep(SETTLES)
        assert survivor.group_channels("group") == [channel]
        doomed.child.kill()
        wait_until(lambda: survivor.group_count("group") == 0, GONE)
        wait_until(lambda: not bell_of(database, channel).exists(), GONE)
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["returns", "closes", "SIGTERM"])
def test_a_process_that_ends_takes_its_memberships_along(
    start: Start, database: Path, how: str
) -> None:
    """It returns from asyncio.run() with or without close(), or its tasks are cancelled. Its bell
    goes with it; nobody else is there who could remove it.
    """
    leaver = Peer(start)
    channels = leaver.join_many("group", 20)
    assert bell_of(database, channels[0]).exists()
    if how == "closes":
        leaver.close()
    if how == "SIGTERM":
        leaver.child.signal(signal.SIGTERM)
        leaver.child.finish()
    else:
        leaver.finish()
    assert bells_in(database) == set()
    assert count(database, MEMBERSHIP) == 0


@pytest.mark.parametrize("jump", [DAYS, -DAYS], ids=["set forward", "set back"])
def test_group_expiry_counts_the_seconds_that_a_reader_has_lived(start: Start, jump: float) -> None:
    """Two of them, wherever the wall clock is set meanwhile, and whoever has added it. Until then a
    clock that is set takes nobody out.
    """
    member, sender = [Peer(start, group_expiry=2) for _ in range(2)]
    channel = member.consume()
    adders = {"itself": member, "another": sender}
    sender.group_send("itself", message(0))
    begun = time.monotonic()
    for group, peer in adders.items():
        peer.group_add(group, channel)
    for peer in adders.values():
        peer.set_clock(jump)
    sender.keep_sending()

    def members() -> int:
        return sum(sender.group_count(group) for group in adders)

    found = members()
    while time.monotonic() - begun < 1.9:
        assert found == 2
        time.sleep(0.05)
        found = members()
    wait_until(lambda: members() == 0, GONE)
    for group in adders:
        sender.group_send(group, message(1))
    sender.send(channel, message(2))
    assert member.heard(channel, 2) == [2]
    member.group_add("itself", channel)
    sender.group_send("itself", message(3))
    assert member.heard(channel, 3) == [3]


def test_a_group_without_members_costs_nothing(start: Start, database: Path) -> None:
    """Nothing is written, nobody is woken, and the write lock of somebody else is no hindrance;
    also where there was a member at the last send.
    """
    sender, member = Peer(start), Peer(start)
    channel = member.consume()
    member.group_add("nobody", channel)
    sender.group_send("nobody", message(0))
    assert member.heard(channel, 0) == [0]
    member.child.kill()
    other = Peer(start)  # it opens the database, and sweeps
    wait_until(lambda: other.group_count("nobody") == 0)
    with locked(database):
        sender.group_send("nobody", message(0))
    with sql(database) as connection:

        def state() -> Any:
            (version,) = connection.execute("pragma data_version").fetchone()
            log = os.stat(f"{database}-wal")
            return version, log.st_size, log.st_mtime_ns

        connection.execute("select count(*) from channels_sqlite_message").fetchone()
        before = state()
        for number in range(50):
            sender.group_send("nobody", message(number))
        assert state() == before
    with locked(database):
        sender.group_send("nobody", message(0))


def test_there_is_always_room_for_an_answer(start: Start) -> None:
    """Capacity 1, 150 rounds, on process-local channels and on normal ones: a message that was
    answered no longer takes room.
    """
    one, other = [Peer(start, capacity=1) for _ in range(2)]
    for mine, yours in ((one.new_channel(), other.new_channel()), ("one", "other")):
        for number in range(150):
            one.send(yours, message(number))
            other.send(mine, other.receive(yours))
            assert one.receive(mine) == message(number)
