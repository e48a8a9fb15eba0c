"""A process's ledger on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull

from stress import ledger, recorder
from stress.ledger import Entry
from stress.recorder import Recorder

MESSAGE = {"sender": "s", "number": 7, "target": "c"}


@pytest.fixture
def ours(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "alice.ledger")


def written(by: Recorder) -> list[Entry]:
    by.write()
    return recorder.read(by.path)


def test_what_is_written_is_read_back_with_the_name_of_the_process(ours: Recorder) -> None:
    with ours.sending("s", 7, "c"):
        pass
    ours.received("c", MESSAGE)
    ours.note(ledger.DROPPED, number=3)
    with ours.sending("s", 0, "everybody", group=True):
        pass
    entries = written(ours)
    kinds = [ledger.SENT, ledger.ACCEPTED, ledger.RECEIVED, ledger.DROPPED]
    assert [entry.kind for entry in entries] == kinds + kinds[:2]
    assert {entry.who for entry in entries} == {"alice"}
    assert entries[2][3:] == ("s", 7, "c", "c")
    assert (entries[3].number, entries[4].channel) == (3, "")
    assert sorted(entry.at for entry in entries) == [entry.at for entry in entries]


def test_a_refusal_and_an_error_end_the_attempt_and_are_told_apart(ours: Recorder) -> None:
    """A cancelled send has an unknown outcome, and stays cancelled."""
    with ours.sending("s", 0, "c") as attempt:
        raise ChannelFull
    assert attempt.refused
    with ours.sending("s", 1, "c") as attempt:
        raise OSError("disk full")
    assert not attempt.refused
    assert ours.errors == {"OSError: disk full": 1}
    with pytest.raises(asyncio.CancelledError), ours.sending("s", 2, "c"):
        raise asyncio.CancelledError
    outcomes = [entry.kind for entry in written(ours) if entry.kind != ledger.SENT]
    assert outcomes == [ledger.REFUSED, ledger.FAILED, ledger.FAILED]


def test_a_durable_ledger_is_there_at_once_and_a_cut_line_is_skipped(tmp_path: Path) -> None:
    durable = Recorder(tmp_path / "bob.ledger", durable=True)
    durable.received("c", MESSAGE)
    durable.received("c", MESSAGE)
    assert len(recorder.read(durable.path)) == 2
    durable.path.write_text(durable.path.read_text()[:-5])
    assert len(recorder.read(durable.path)) == 1
