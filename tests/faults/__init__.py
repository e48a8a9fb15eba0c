"""What can go wrong, with real processes and real files: it goes on, loses nothing in silence, and
says what is wrong.

    deaths    processes that are killed, stopped, or told to end
    forks     children, grandchildren, servers that preload; with and without Python's hooks
    members   groups, while their members stop, die, expire and are discarded
    bells     the directory of bells in every state; births, kills, crowds and containers
    disks     full, failing, read-only
    files     damaged, of others; names and links
    replaced  replaced, deleted, moved, restored, flushed, mounted, shared under running processes
    locks     held by others; readers that stay
    wakes     events that are lost, late, too many, or not to be had
    clocks    set forward and back
    errors    exceptions in each part of ours
    rows      whatever others write, and whatever names are asked for
    schemas   of other versions, and migrations at once
    privacy   who may read, and what they find
    load      consumers that never read
    calls     system calls that fail once
    large     large bodies, slow consumers, few descriptors
    interrupts    exceptions out of signal handlers, at any moment

`nox -s faults` runs them at length.
"""
