"""The work of the processes of the tests of forks; see tests/processes.py."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any

import django
from channels import layers
from django.db import connections, transaction

from channels_sqlite._storing import forks
from channels_sqlite.exceptions import DatabaseUnavailable, ForeignChannel
from channels_sqlite.layers import SqliteChannelLayer
from tests.children import hear, inotify_descriptors, main, say, send
from tests.rows import message, put_number

# From Python 3.12 on, a fork warns in a process that has threads. These have some, as the layer's
# users have, who fork all the same: that it goes well is what is tested.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

CHANNEL = "test-channel"
get_channel_layer: Callable[[], Any] = layers.get_channel_layer
GROUP = "test-group"
PATIENCE = 20.0  # seconds; only a child that hangs takes so many


# Readers and writers


async def comes_and_goes() -> None:
    """Receive until a negative number comes, then say the numbers received.

    It closes the layer after every third message and opens it again. So it is at times another
    process that closes the file as the last.
    """
    layer = SqliteChannelLayer()
    say("ready")
    numbers = [(await layer.receive(CHANNEL))["number"]]
    while numbers[-1] >= 0:
        if len(numbers) % 3 == 0:
            await layer.close()
            await asyncio.sleep(0.02)
        numbers.append((await layer.receive(CHANNEL))["number"])
    say(numbers[:-1])
    await layer.close()


def send_number(number: int) -> None:
    """Send it, and wait for room: not for ever, as the receiver may have died."""
    sending = send(get_channel_layer(), CHANNEL, message(number))
    asyncio.run(asyncio.wait_for(sending, PATIENCE / 2))


def insert_number(number: int) -> None:
    """Send it by Django's connection, as the ORM and the admin do, which is not the layer's."""
    connections["channels"].ensure_connection()
    put_number(connections["channels"].connection, CHANNEL, number)


def close_layer() -> None:
    asyncio.run(get_channel_layer().close())


def close_django() -> None:
    connections["channels"].close()


USES = {"layer": (send_number, close_layer), "Django": (insert_number, close_django)}
"""How a process sends a number, and how it closes the connection that it sent it by."""


# Forks


def forked(
    function: Callable[..., None], *arguments: Any, fork: Callable[[], int] = os.fork
) -> int:
    """Fork a child that calls the function, and ends without the rest of the program, which is its
    parent's; its pid.
    """
    pid = fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait until a child has ended; its exit status, -9 for one that hung."""
    deadline = time.monotonic() + PATIENCE
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(found[1])


def start(how: str, function: Callable[..., None], *arguments: Any) -> Callable[[], int]:
    """Start a worker in one of Python's ways; returns what waits for its exit status."""
    if how == "os.fork":
        return partial(ended, forked(function, *arguments))
    context: Any = multiprocessing.get_context(how)
    context.set_forkserver_preload(["channels_sqlite.layers"])  # as projects do, for speed
    process = context.Process(target=function, args=arguments)
    process.start()
    return partial(joined, process)


def joined(process: Any) -> int:
    """As `ended`, for a process that need not be a child of this one, but of the forkserver."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode)


def workers(how: str, uses: str, count: int) -> None:
    """For each job start a worker. Send before, and meanwhile; close every second time. Say how the
    workers ended.
    """
    django.setup()
    send_one, close = USES[uses]
    statuses = []
    for turn in range(count):
        send_one(5 * turn)
        wait = start(how, job, 5 * turn + 1, turn % 4 == 3)
        time.sleep(random.uniform(0, 0.04))
        if turn % 2:
            close()
        send_one(5 * turn + 4)
        statuses.append(wait())
    say(statuses)


def job(number: int, closes: bool) -> None:
    """Send a number, and two more in a while, one of them by a child."""
    send_number(number)
    child = forked(send_number, number + 1)
    time.sleep(random.uniform(0, 0.02))
    if closes:
        close_layer()
    send_number(number + 2)
    assert ended(child) == 0


def beside_a_thread(count: int) -> None:
    """Fork while a thread opens, uses and closes the layer, until a child or a thread hangs; say
    how the children ended.
    """
    get_channel_layer()  # a child would wait for ever for a module that a thread was importing
    statuses: list[int] = []
    while len(statuses) < count:
        thread = threading.Thread(target=asyncio.run, args=[use_and_close()])
        thread.start()
        time.sleep(random.uniform(0, 0.012))
        statuses.append(ended(forked(use_sqlite_and_send, len(statuses))))
        thread.join(PATIENCE)
        if statuses[-1] or thread.is_alive():
            break
    say(statuses)


async def use_and_close() -> None:
    layer = get_channel_layer()
    for number in range(random.randrange(8)):
        await layer.send("of-the-thread", message(number))
        await layer.receive("of-the-thread")
    await layer.close()


def use_sqlite_and_send(number: int) -> None:
    """SQLite's own mutexes are free, whatever the parent's threads did at the fork."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table test (number)")
    send_number(number)


@contextmanager
def without_autocommit() -> Iterator[None]:
    transaction.set_autocommit(False, using="channels")
    yield
    transaction.commit(using="channels")


@contextmanager
def by_sql() -> Iterator[None]:
    with connections["channels"].cursor() as cursor:
        cursor.execute("begin")
        yield
        cursor.execute("commit")


def in_a_transaction(of: str) -> None:
    """Fork inside of one. The child sends after the commit; it says whether it could."""
    django.setup()
    committed, commit = os.pipe()
    with TRANSACTIONS[of]():
        insert_number(0)
        child = forked(send_after, committed, 2)
        insert_number(1)
    close_django()
    os.write(commit, b".")
    say(ended(child))


def closed_in_a_transaction() -> None:
    """Fork where Django's connection was closed inside of `atomic()`."""
    django.setup()
    send_number(0)
    with transaction.atomic(using="channels"):
        connections["channels"].close()
        say(ended(forked(send_number, 1)))
        transaction.set_rollback(True, using="channels")


def closed_without_django() -> None:
    """Fork where a program has closed the connection that Django still has."""
    django.setup()
    send_number(0)
    connections["channels"].ensure_connection()
    connections["channels"].connection.close()
    say(ended(forked(send_number, 1)))


TRANSACTIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "atomic": partial(transaction.atomic, using="channels"),
    "set_autocommit": without_autocommit,
    "SQL": by_sql,
}


def send_after(event: int, number: int) -> None:
    """Say why it is refused, or "accepted"."""
    os.read(event, 1)
    try:
        send_number(number)
    except DatabaseUnavailable as error:
        say(str(error))
    else:
        say("accepted")


def beside_a_threads_connection() -> None:
    """Fork while another thread has a connection of Django's; the child says what comes of a send,
    and the parent sends, too.
    """
    event, free = os.pipe()
    os.write(free, b".")
    django.setup()
    opened, closes = threading.Event(), threading.Event()

    def hold() -> None:
        with connections["channels"].cursor():
            opened.set()
        closes.wait(PATIENCE)
        connections["channels"].close()

    holder = threading.Thread(target=hold)
    holder.start()
    opened.wait(PATIENCE)
    say(ended(forked(send_after, event, 2)))
    send_number(1)
    closes.set()
    holder.join()


async def while_it_receives() -> None:
    """Fork two children while a consumer waits. All three say what they receive."""
    receiving = asyncio.create_task(say_numbers("parent"))
    await asyncio.sleep(0.2)  # so that it waits
    for name in ("child", "child that closes"):
        forked(lives_on, name)
    await receiving


def lives_on(name: str) -> None:
    """Be a child for which its parent does not wait."""
    if name == "child that closes":
        close_layer()  # which is its parent's, so far
    asyncio.run(say_numbers(name))


async def say_numbers(name: str) -> None:
    """Join the group, and say what comes until a negative number does. Then end without closing."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    say([name, channel])
    while (number := (await layer.receive(channel))["number"]) >= 0:
        say([name, number])


def fork_without_hooks() -> int:
    """Fork as C code does. A thread that wants the interpreter's lock at that moment would hang the
    child, in Python itself: the layer's comes to rest first, and no other is there.
    """
    time.sleep(1)
    # PyDLL rather than CDLL: no other thread holds the interpreter's lock at the fork.
    return int(ctypes.PyDLL(None).fork())


def without_hooks(uses: str | None) -> None:
    """Fork as C code does, after the use of a connection or before any. Say what the child could
    do, a channel of the parent, and how the child ended; go on.
    """
    django.setup()
    ours = asyncio.run(get_channel_layer().new_channel())  # which is no use of a connection
    if uses is not None:
        send_one, _ = USES[uses]
        send_one(0)
    child = forked(lambda: say(asyncio.run(outcomes(ours))), fork=fork_without_hooks)
    say([ours, ended(child)])
    send_number(1)


async def outcomes(of_the_parent: str) -> list[Any]:
    """A channel of one's own; what comes of waiting on the parent's; and of each use of an
    inherited layer, and of a new one: words of an error, or "".
    """
    await asyncio.wait_for(get_channel_layer().close(), PATIENCE / 4)  # nothing of its own
    own = await get_channel_layer().new_channel()
    verbs = [get_channel_layer().receive(of_the_parent)]
    for number, layer in enumerate((get_channel_layer(), SqliteChannelLayer()), 2):
        verbs += [
            layer.send("of-the-child", message(number)),
            layer.receive("of-the-child"),
            layer.group_add(GROUP, "of-the-child"),
            layer.group_send(GROUP, message(number)),
            layer.send(CHANNEL, message(number)),
        ]
    found = []
    for verb in verbs:
        try:
            await asyncio.wait_for(verb, PATIENCE / 4)
        except (DatabaseUnavailable, ForeignChannel) as error:
            found.append(str(error))
        else:
            found.append("")
    return [own, *found]


def forks_as_it_stops_to_listen() -> None:
    """Fork as an event loop has just stopped to listen, twenty times. Each child says which
    descriptors of inotify it has.
    """
    layer = SqliteChannelLayer()

    async def receive_and_fork() -> None:
        await layer.send(CHANNEL, message(1))
        await layer.receive(CHANNEL)
        layer._parts.receiver._stop(asyncio.get_running_loop())  # as close() does
        ended(forked(lambda: say(inotify_descriptors())))

    for _ in range(20):
        asyncio.run(receive_and_fork())


class Slow(forks.Forkable):
    """An owner that takes a while to forget what is the parent's."""

    has_forgotten = False

    def after_fork_in_child(self) -> None:
        time.sleep(0.2)
        self.has_forgotten = True


def threads_without_hooks() -> None:
    """Fork as C code does. Two threads of the child notice, and say if what is the parent's was
    forgotten then.
    """
    slow = Slow()
    forks.register(slow)

    def notice(_: int) -> bool:
        forks.notice()
        return slow.has_forgotten

    def notice_twice() -> None:
        with ThreadPoolExecutor(2) as threads:
            say([*threads.map(notice, range(2))])

    say(ended(forked(notice_twice, fork=fork_without_hooks)))


def forks_without_closing() -> None:
    """Fork while the test has the lock for closing. The child says what comes of a send when that
    is free again, and the parent how the child ended.
    """
    send_number(0)
    say("used")
    hear()
    event, free = os.pipe()
    child = forked(send_after, event, 2)
    say("forked")
    hear()
    os.write(free, b".")
    say(ended(child))
    send_number(1)


def forks_interrupted() -> None:
    """Fork while the test has the lock for closing, and a handler of a signal raises meanwhile. Say
    so, and when another thread has sent.
    """
    send_number(0)
    say("used")
    hear()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    ended(forked(time.sleep, 0))
    say("forked")
    with ThreadPoolExecutor(1) as another:
        another.submit(send_number, 1).result(PATIENCE)
    say("sent")


async def ends_after_a_fork() -> None:
    """Join a group, fork a child, and end without another use of the layer."""
    layer = get_channel_layer()
    await layer.group_add(GROUP, await layer.new_channel())
    say("joined")
    ended(forked(time.sleep, 0))


async def exits_without_hooks() -> None:
    """Join a group; fork as C code does a child that ends at once, as a Python program does. Say
    how many are in the group then.
    """
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    ended(forked(atexit._run_exitfuncs, fork=fork_without_hooks))
    say(await layer.group_count(GROUP))


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
