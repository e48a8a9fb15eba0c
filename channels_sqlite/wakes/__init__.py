"""When to look: hints that a database file may have changed. The row is the truth.

    watchers             the process's: one for a file and a way of watching
    inotify  watchfiles  ways of watching
    watcher              what they have in common: whom they wake
    listener             one event loop's looks: wakes, the ladder after a write, the heartbeat

A watcher knows a path, a listener knows a function to call; neither knows what a message is.
"""
