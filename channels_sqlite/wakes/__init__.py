"""When to look: hints that a database file may have changed. The row is the truth, a wake is only a
hint.

    watchers            one watcher for a process, a file and a kind of watching
    inotify, watchfiles what watches
    listener            one event loop's looks: wakes, the ladder after a write, the heartbeat

A watcher knows a path, a listener knows a function to call; neither knows what a message is.
"""
