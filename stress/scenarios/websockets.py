"""End to end: real servers, real WebSocket clients, and rooms in which they talk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stress import ledger, measure, servers, sockets
from stress.children import Child
from stress.lab import Lab
from stress.layers import LAYERS, Layer
from stress.ledger import Entry
from stress.measure import Usage
from stress.plan import Case, Figure, Measured, Plan, Scenario
from stress.servers import Server
from stress.sockets import Seat

SETTLING = 2.0  # seconds: adaptive watchers calm down, connections are up
WARM_UP = 1.5  # seconds of talk before what is measured
STARTING = 4.0  # seconds for the servers, about
CONNECTS = 400  # a second, about
ECHOES = 5  # of a broadcast, at least
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Shape:
    """The number of sockets, of members in a room and of workers, and how often sockets speak."""

    sockets: int = 200
    members: int = 10
    workers: int = 2
    rate: float = 1.0  # messages a second, of each socket that speaks


SHAPES = (  # of the profile `figures`
    Shape(),
    Shape(120, 2, 6),
    Shape(2_000, 10, 4, rate=0.1),
    Shape(2_000, 2_000, 4, rate=0.5),
)


def cases(plan: Plan) -> list[Case]:
    """One case a server, of the shape asked for; the profile has all shapes for each server."""
    usual = Shape()
    shapes: tuple[Shape, ...] = (
        Shape(
            plan.sockets or usual.sockets,
            plan.members or usual.members,
            plan.processes or usual.workers,
        ),
    )
    if plan.profile == "figures" and not (plan.sockets or plan.members or plan.processes):
        shapes = SHAPES
    names = plan.servers or ("uvicorn-uvloop",)
    return [case(plan, name, shape) for name in names for shape in shapes]


def case(plan: Plan, server: str, asked: Shape) -> Case:
    rate = plan.rate or asked.rate
    workers = asked.workers
    room = min(asked.members, asked.sockets)
    many = asked.sockets - asked.sockets % room  # all rooms are full
    # In a broadcast only one socket speaks, and a single echo would say little.
    least = ECHOES if room == many else 1
    seconds = plan.seconds or max(plan.choose(quick=6.0, normal=6.0, figures=4.0), least / rate)
    idle = min(seconds, plan.choose(quick=3.0, normal=3.0, figures=2.0))
    if room == many:
        shape = f"a broadcast to {many:,} sockets"
    else:
        shape = f"{many:,} sockets in rooms of {room:,}"
    often = "every second" if rate == 1 else f"every {1 / rate:g} s"
    missing = servers.KINDS[server].missing()
    return Case(
        f"{shape}, {often}, {workers} x {server}",
        {
            "sockets": many,
            "members": room,
            "workers": workers,
            "rate": rate,
            "seconds": seconds,
            "idle": idle,
            "size": plan.body,
            "server": server,
        },
        processes=1,  # the in-memory layer has one worker, and is measured too
        lasts=STARTING + many / CONNECTS + SETTLING + idle + WARM_UP + seconds,
        watched=False,
        only=(lambda _: False) if missing else partial(keeps_up, many),
        why=missing or "does not keep up with so many sockets",
    )


def keeps_up(many: int, layer: Layer) -> bool:
    """Return False for slow layers: the in-memory one looks at every channel for each message."""
    return layer.name != "channels-lite" and (layer.name != "memory" or many < 1_000)


def seats(many: int, room: int, workers: int) -> list[list[Seat]]:
    """The sockets of each worker. The sockets of a room are spread over the workers."""
    shares: list[list[Seat]] = [[] for _ in range(workers)]
    for number in range(many):
        place, member = divmod(number, room)
        shares[(place + member) % workers].append((f"socket{number}", f"room{place}"))
    return shares


@dataclass
class Stage:
    """The servers, and for each of them a process of clients, whose sockets it serves."""

    lab: Lab
    running: Sequence[Server]
    clients: Sequence[Child]
    arguments: Mapping[str, Any]
    expected: int = 0  # deliveries so far
    arrived: int = 0

    @property
    def pids(self) -> list[int]:
        """The processes that carry messages: the servers, and redis-server."""
        redis = [self.lab.server.pid] if self.lab.server is not None else []
        return [*(server.pid for server in self.running), *redis]

    def usages(self) -> list[Usage]:
        return [measure.usage(pid) for pid in self.pids]

    def memory(self) -> int:
        return sum(measure.usage(server.pid).memory for server in self.running)

    async def begin(self) -> None:
        """Connect a first socket to each worker: it brings connections, threads and the watcher."""
        size = self.arguments["size"]
        for number, (client, server) in enumerate(zip(self.clients, self.running, strict=True)):
            name = f"first{number}"
            await client.call(sockets.connect, seats=[(name, name)], url=server.url)
            self.expected += await client.call(
                sockets.say, phase="warm-up", names=[name], rate=2.0, seconds=0.5, size=size
            )
        self.arrived = await self.lab.settle(self.expected)

    async def connect(self, shares: Sequence[list[Seat]]) -> dict[str, float]:
        before = self.memory()
        took = await asyncio.gather(
            *(
                client.call(sockets.connect, seats=share, url=server.url)
                for client, server, share in zip(self.clients, self.running, shares, strict=True)
            )
        )
        # A full collection stops a process with 500 sockets for 90 ms. Each layer would have one
        # some time after its sockets have connected: within the measured time, or just before.
        for server in self.running:
            server.collect_garbage()
        await asyncio.gather(*(client.call(sockets.collect_garbage) for client in self.clients))
        await asyncio.sleep(SETTLING)
        many = self.arguments["sockets"]
        return {
            "connects": many / max(took),
            "memory": (self.memory() - before) / many / 1024,
        }

    async def idle(self) -> dict[str, float]:
        before = self.usages()
        await asyncio.sleep(self.arguments["idle"])
        used = map(measure.spent, before, self.usages())
        return {"idle cpu": sum(each.cpu_percent for each in used)}

    async def talk(
        self, phase: str, speakers: Sequence[list[str]], seconds: float
    ) -> dict[str, float]:
        how = {"rate": self.arguments["rate"], "seconds": seconds, "size": self.arguments["size"]}
        arrived, before = self.arrived, self.usages()
        clients = [measure.usage(client.pid) for client in self.clients]
        said = await asyncio.gather(
            *(
                client.call(sockets.say, phase=phase, names=names, **how)
                for client, names in zip(self.clients, speakers, strict=True)
            )
        )
        busy = [
            measure.spent(was, measure.usage(client.pid)).cpu_percent
            for client, was in zip(self.clients, clients, strict=True)
        ]
        self.expected += sum(said) * self.arguments["members"]
        self.arrived = await self.lab.settle(self.expected)
        used = sum(now.cpu - was.cpu for was, now in zip(before, self.usages(), strict=True))
        figures = {"clients cpu": max(busy)}
        if self.arrived > arrived:
            figures["cpu"] = used / (self.arrived - arrived) * 1000
        return figures

    async def end(self) -> None:
        await asyncio.gather(*(client.call(sockets.hang_up) for client in self.clients))
        for server in self.running:
            server.check()

    def count(self) -> None:
        """Note the counts for the clients: in the ledger they and their server are one process."""
        for client, server in zip(self.clients, self.running, strict=True):
            counts = server.counts()
            self.lab.counters.update(counts)
            for kind in (ledger.DROPPED, ledger.EXPIRED):
                if number := counts.get(kind):
                    now = time.monotonic_ns()
                    self.lab.notes.append(Entry(kind, now, client.name, number=number))


async def run(lab: Lab, case: Case) -> Measured:
    arguments = case.arguments
    many, room = arguments["sockets"], arguments["members"]
    workers = arguments["workers"] if lab.layer.processes else 1
    clients = await asyncio.gather(
        *(lab.child(f"worker{n}", layer=LAYERS["memory"]) for n in range(workers))
    )  # the layer of these is not used
    kind = servers.KINDS[arguments["server"]]
    async with servers.serving(kind, workers, lab.directory, lab.settings()) as running:
        stage = Stage(lab, running, clients, arguments)
        await stage.begin()
        shares = seats(many, room, workers)
        figures = await stage.connect(shares)
        figures |= await stage.idle()
        speakers = [[name for name, _ in share] for share in shares]
        if room == many:  # in a broadcast one speaks, and all hear it
            speakers = [speakers[0][:1], *([] for _ in shares[1:])]
        await stage.talk("warm-up", speakers, WARM_UP)
        figures |= await stage.talk("measured", speakers, arguments["seconds"])
        await stage.end()
    stage.count()

    entries = await lab.entries()
    own, others = delays(entries)
    return Measured(
        {
            **percentiles("echo", own),
            **percentiles("delivery", others),
            "deliveries": measure.rate(entries, ledger.RECEIVED, "measured"),
            "missing": stage.expected - stage.arrived,
            **figures,
        },
        distributions={
            "echo ms": measure.distribution(own),
            "delivery ms": measure.distribution(others),
        },
    )


def delays(entries: Iterable[Entry]) -> tuple[list[float], list[float]]:
    """Milliseconds until the socket that spoke heard itself, and until the others heard it."""
    sent: dict[tuple[str, int], int] = {}
    heard: list[Entry] = []
    for entry in entries:
        if entry.sender.startswith("measured "):
            if entry.kind == ledger.SENT:
                sent[entry.sender, entry.number] = entry.at
            elif entry.kind == ledger.RECEIVED:
                heard.append(entry)
    own: list[float] = []
    others: list[float] = []
    for entry in heard:
        mine = entry.sender == f"measured {entry.channel}"
        (own if mine else others).append((entry.at - sent[entry.sender, entry.number]) / 1e6)
    return own, others


def percentiles(what: str, samples: Iterable[float]) -> dict[str, float]:
    ordered = sorted(samples)
    if not ordered:
        return {}
    return {
        f"{what} {name}": measure.quantile(ordered, fraction)
        for name, fraction in PERCENTILES.items()
    }


SCENARIO = Scenario(
    name="websockets",
    says="real servers and WebSocket clients in rooms of 10 or of 2, or one that all are in",
    figures=(
        Figure("echo p50", "ms", "less", "until the socket that spoke hears itself"),
        Figure("echo p95", "ms", "less"),
        Figure("echo p99", "ms", "less"),
        Figure("delivery p50", "ms", "less", "until another socket of its room hears it"),
        Figure("delivery p95", "ms", "less"),
        Figure("delivery p99", "ms", "less"),
        Figure("deliveries", "/s", "", "to sockets, their own included"),
        Figure("missing", "", "less", "deliveries that did not come: dropped, expired or lost"),
        Figure(
            *("cpu", "s", "less"),
            "of all servers, redis-server included, for a thousand deliveries",
        ),
        Figure("idle cpu", "%", "less", "of one core, of all servers while no socket speaks"),
        Figure("memory", "KiB", "less", "more in the servers for each socket"),
        Figure("connects", "/s", "more", "sockets that are connected, and in their room"),
        Figure(
            *("clients cpu", "%", ""),
            "of one core, of the busier process of clients: near 100, the clients are the limit",
        ),
    ),
    cases=cases,
    measure=run,
    rounds=(1, 3, 3),
    profiles=("figures",),
)
