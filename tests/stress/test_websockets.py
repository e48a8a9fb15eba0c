"""The scenario `websockets`: real servers, real sockets, and a ledger of what they hear."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import Any

import psutil
import pytest

from stress import ledger, servers, sockets
from stress.children import Children
from stress.lab import Lab
from stress.layers import LAYERS
from stress.ledger import Entry
from stress.plan import Case, Plan
from stress.scenarios import websockets
from stress.scenarios.websockets import SCENARIO, Stage
from stress.servers import KINDS, Kind, ServerError
from stress.verdict import check
from tests.stress.conftest import new_lab

pytestmark = pytest.mark.asyncio(loop_scope="session")

LAB = {"config": {"capacity": 5}}
SMALL = Plan(sockets=6, members=3, rate=5.0, seconds=1.0)
UVICORN = KINDS["uvicorn-asyncio"]


def small(server: str = "uvicorn-asyncio") -> Case:
    (case,) = websockets.cases(replace(SMALL, servers=[server]))
    return case


@pytest.mark.parametrize("server", ["uvicorn-uvloop", "daphne"])  # the other tests have the third
async def test_every_figure_is_measured_and_the_ledger_balances(here: Lab, server: str) -> None:
    if why := KINDS[server].missing():
        pytest.skip(why)
    measured = await websockets.run(here, small(server))
    assert set(measured.figures) == {figure.name for figure in SCENARIO.figures}
    assert measured.figures["missing"] == 0
    verdict = check(await here.entries())
    assert (verdict.examples, verdict.broken) == ([], False)
    spoken = [e for e in await here.entries() if e.kind == ledger.SENT and "socket" in e.sender]
    assert verdict.received == 3 * len(spoken) + 2  # and the first of each worker heard itself


async def test_the_in_memory_layer_has_one_worker(children: Children) -> None:
    async with new_lab(children, "memory") as here:
        measured = await websockets.run(here, small())
        assert [child.name for child in here.children] == ["worker0"]
        assert measured.figures["missing"] == 0


async def test_what_the_layer_drops_in_a_server_is_in_the_ledger(here: Lab) -> None:
    """One of two servers is stopped, and what its sockets are sent has no room. Both have ended
    afterwards, and an exception in one is a result.
    """
    clients = [await here.child(f"worker{n}", layer=LAYERS["memory"]) for n in range(2)]
    async with servers.serving(UVICORN, 2, here.directory, here.settings()) as running:
        processes = [psutil.Process(server.pid) for server in running]
        stage = Stage(here, running, clients, small().arguments)
        await stage.begin()
        shares = websockets.seats(many=6, room=3, workers=2)
        await stage.connect(shares)
        running[1].process.send_signal(signal.SIGSTOP)
        how: Any = {"rate": 50.0, "seconds": 1.0, "size": 130}
        names = [name for name, _ in shares[0]]
        await clients[0].call(sockets.say, phase="measured", names=names, **how)
        await asyncio.sleep(1)
        running[1].process.send_signal(signal.SIGCONT)
        await here.settle()
        await stage.end()
        running[0].check()
        running[0].errors.write_text("Traceback (most recent call last):\nKeyError: 'room'")
        with pytest.raises(ServerError, match="KeyError: 'room'"):
            running[0].check()
    assert not any(process.is_running() for process in processes)
    stage.count()
    entries = await here.entries()
    verdict = check(entries)
    assert verdict.dropped > 0
    assert verdict.owed > verdict.received
    assert (verdict.examples, verdict.broken) == ([], False)
    # The count is what makes it balance.
    assert check(entry for entry in entries if entry.kind != ledger.DROPPED).lost > 0


async def test_a_server_that_does_not_come_up_is_a_result_and_one_that_stands_still_is_killed(
    here: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Kind("wrong", (*UVICORN.command, "--no-such-option"), ("no_such_server",))
    assert wrong.missing() == "no_such_server is not installed"
    with pytest.raises(ServerError, match=r"a server ended \(2\): (.|\n)*no-such"):
        async with servers.serving(wrong, 1, here.directory, here.settings()):
            pass
    (port,) = servers.free_ports(1)
    stopped = await servers.start(UVICORN, port, here.directory, here.settings())
    stopped.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(servers, "PATIENCE", 0.1)
    await stopped.end()
    assert stopped.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("many", "room", "workers"), [(120, 2, 6), (9, 9, 4), (7, 3, 4)])
async def test_a_rooms_sockets_are_spread_over_workers(many: int, room: int, workers: int) -> None:
    shares = websockets.seats(many, room, workers)
    every = [seat for share in shares for seat in share]
    assert len({name for name, _ in every}) == many
    assert max(map(len, shares)) - min(map(len, shares)) <= room
    for place in {place for _, place in every}:
        together = [sum(where == place for _, where in share) for share in shares]
        assert max(together) - min(together) <= 1


def entry(kind: str, at: float, sender: str, channel: str = "") -> Entry:
    return Entry(kind, round(at * 1e6), "p", sender, 0, "room0", channel)


async def test_what_a_socket_hears_of_itself_is_an_echo_and_the_rest_is_delivered() -> None:
    entries = [
        entry(ledger.RECEIVED, 9, "warm-up socket1", "socket2"),
        entry(ledger.RECEIVED, 5, "measured socket1", "socket1"),
        entry(ledger.RECEIVED, 7, "measured socket1", "socket2"),
        entry(ledger.SENT, 4, "measured socket1"),
    ]
    assert websockets.delays(entries) == ([1.0], [3.0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "200 sockets in rooms of 10, every second, 2 x uvicorn-uvloop"),
        (
            {"sockets": 2005, "processes": 4, "rate": 0.1, "servers": ["daphne"]},
            "2,000 sockets in rooms of 10, every 10 s, 4 x daphne",
        ),
        (
            {"sockets": 50, "members": 50, "rate": 2.0},
            "a broadcast to 50 sockets, every 0.5 s, 2 x uvicorn-uvloop",
        ),
    ],
)
async def test_the_options_make_the_case(options: dict[str, Any], name: str) -> None:
    (case,) = websockets.cases(Plan(**options))
    assert case.name == name
    assert case.arguments["seconds"] >= 1 / case.arguments["rate"]  # each speaks once at least


async def test_layers_that_do_not_keep_up_are_left_out() -> None:
    (few,), (many,) = (  # of sockets
        websockets.cases(Plan(sockets=n, servers=["daphne"])) for n in (200, 2000)
    )
    left_out = [
        {layer.name for layer in LAYERS.values() if case.excludes(layer)} for case in (few, many)
    ]
    assert left_out == [{"channels-lite"}, {"channels-lite", "memory"}]
