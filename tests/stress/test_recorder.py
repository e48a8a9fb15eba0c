"""A process's ledger on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from channels.exceptions import ChannelFull

from stress import ledger, recorder
from stress.recorder import Recorder

MESSAGE = {"sender": "s", "number": 7, "target": "c"}


def test_what_is_written_is_read_back_with_the_name_of_the_process(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger")
    with ours.sending("s", 7, "c"):
        pass
    ours.received("c", MESSAGE)
    ours.note(ledger.DROPPED, number=3)
    ours.write()
    entries = recorder.read(tmp_path / "alice.ledger")
    kinds = [entry.kind for entry in entries]
    assert kinds == [ledger.SENT, ledger.ACCEPTED, ledger.RECEIVED, ledger.DROPPED]
    assert {entry.who for entry in entries} == {"alice"}
    assert entries[2][3:] == ("s", 7, "c", "c")
    assert entries[3].number == 3
    assert sorted(entry.at for entry in entries) == [entry.at for entry in entries]


def test_a_send_to_a_group_has_no_channel(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger")
    with ours.sending("s", 0, "everybody", group=True):
        pass
    ours.write()
    assert recorder.read(ours.path)[0].channel == ""


def test_a_refusal_and_an_error_end_the_attempt_and_are_told_apart(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger")
    with ours.sending("s", 0, "c") as attempt:
        raise ChannelFull
    assert attempt.refused
    with ours.sending("s", 1, "c") as attempt:
        raise OSError("disk full")
    assert not attempt.refused
    ours.write()
    kinds = [entry.kind for entry in recorder.read(ours.path)]
    assert kinds == [ledger.SENT, ledger.REFUSED, ledger.SENT, ledger.FAILED]
    assert ours.errors == {"OSError: disk full": 1}


def test_a_cancelled_send_is_an_unknown_outcome_and_stays_cancelled(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger")
    with pytest.raises(asyncio.CancelledError), ours.sending("s", 0, "c"):
        raise asyncio.CancelledError
    ours.write()
    assert [e.kind for e in recorder.read(ours.path)] == [ledger.SENT, ledger.FAILED]


def test_a_durable_ledger_is_on_disk_at_once(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger", durable=True)
    ours.received("c", MESSAGE)
    assert len(recorder.read(ours.path)) == 1


def test_a_line_cut_short_is_skipped(tmp_path: Path) -> None:
    ours = Recorder(tmp_path / "alice.ledger", durable=True)
    ours.received("c", MESSAGE)
    ours.received("c", MESSAGE)
    text = ours.path.read_text()
    ours.path.write_text(text[:-5])
    assert len(recorder.read(ours.path)) == 1
