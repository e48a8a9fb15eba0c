"""The ledger: the entries by which every process says what it did.

Each child writes one before and after every send, at every receipt, and around every join and
leave. The harness adds what it broke. `verdict.check` reads them all.
"""

from __future__ import annotations

from typing import NamedTuple

SENT = "sent"  # about to be sent
ACCEPTED = "accepted"  # send() returned
REFUSED = "refused"  # send() raised ChannelFull
FAILED = "failed"  # send() raised anything else: it may or may not arrive
RECEIVED = "received"
LISTENING = "listening"  # `who` reads `channel`
JOINING = "joining"  # about to call group_add
JOINED = "joined"  # group_add returned
LEAVING = "leaving"  # about to call group_discard
LEFT = "left"  # group_discard returned
DROPPED = "dropped"  # the layer's own count in `who`, as `number`
EXPIRED = "expired"  # likewise
GONE = "gone"  # `who` stopped reading `channel`; what came within `number` ns before is excused
KILLED = "killed"  # the harness killed `who`; it could hold `number` messages in its hands
FAULT = "fault"  # the harness broke `target` from `at` until `number`
JUMPED = "jumped"  # the harness set the clock forward: what was under way may have expired


class Entry(NamedTuple):
    """One line of the ledger. A message is (sender, number, target); numbers rise per sender."""

    kind: str
    at: int  # time.monotonic_ns(), one clock for all processes of a machine
    who: str  # the process
    sender: str = ""
    number: int = 0
    target: str = ""  # a channel or a group
    channel: str = ""  # where it was read or joined; "" for a send to a group
