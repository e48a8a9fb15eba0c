"""A Django Channels layer on one SQLite file, woken by file watching.

The house, from the roof down. A row imports only rows beneath it, and within a row only what stands
to its left; a leading underscore says that it may change.

    migrations checks apps admin management    Django, sync: no logic of the layer
    _tools: tables clones orm_forks file_checks doctor tail
    layers                                     Channels' rules, names and errors
    _receiving: inbox queues memberships reading listening receiver
    _sending: trimmer sender                   one transaction each
    stats                                      what the file shows
    _waking: bells listener inotify watchfiles watchers
    models                                     the tables, as Django sees them
    db_routers                                 which database the tables are in
    _storing: handle worker connections private opener readers database setup registry
    _storing: weak forks folders locks once messages schema sql groups upkeep mounts refusals files
    _options: conf codec settings              CONFIG, checked; bodies
    counters serializers                       what users name and read
    exceptions                                 what they catch
    _options: times                            how often, and how long

Between its body's two ways through `codec`, a message passes `layers`, `sender`, `database`,
`connections`, `handle`, `sql` and `bells` as it is sent; and `inotify`, `listener`, `receiver`,
`reading`, `database`, `connections`, `handle`, `sql` and `queues` as it wakes its reader.

The rules of the house:

-   The row is the truth, the ring is a hint: watch, look, wait, look again.
-   Wake whom it concerns: a process pays for what it receives, not for what others send.
-   One intent is one transaction, and where it can be, one statement.
-   A short statement runs on the event loop, with one nap at most; a long one on a thread.
-   State changes are synchronous, awaits stand around them.
-   A cancelled receive loses nothing, doubles nothing, and waits for nothing.
-   A lock says whether a reader lives, not a clock.
-   Nothing grows without a bound.
"""
