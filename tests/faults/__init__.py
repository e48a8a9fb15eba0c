"""Faults, with real processes and real files: the layer goes on, loses nothing in silence, and says
what is wrong.

    forks     children and grandchildren; with and without Python's hooks
    members   groups, while their members stop, die, expire and are discarded
    bells     the directory of bells in every state; births, kills and containers
    disks     full, failing, read-only; system calls that fail once
    files     damaged, of others; names and links
    replaced  replaced, deleted, moved, restored, flushed, mounted, shared under running processes
    locks     held by others; readers that stay, or die with a claim; races for room
    wakes     events that are lost, late, too many, or not to be had
    clocks    set forward and back
    errors    exceptions in each part of ours
    rows      whatever others write
    schemas   of other versions
    privacy   who may read, and what they find
    load      consumers that never read or are slow, large bodies, few descriptors
    interrupts    exceptions out of signal handlers, at any moment

`nox -s faults` runs them at length.
"""
