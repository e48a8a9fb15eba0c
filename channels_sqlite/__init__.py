"""A Django Channels layer on one SQLite file, woken by file watching.

The house, from the roof down; a row imports only rows beneath it:

    apps  admin  management             Django, sync: they hold no logic of the layer
    checks  doctor  db_routers          what users are told, and what they name in settings
    layers                              Channels' rules, names and errors
    sender  receiver                    one for each layer and process
    trimmer  inboxes  claims            rows away, rows in by cursor, rows in by claim
    roll_call                           who reads, and how it is
    databases                           one database for each file and process
    consumers  tasks  upkeep            who waits here; statements nobody waits for; what may go
    store  buffers  waiters  codec      SQL; memory; futures; bodies
    database  wakes/                    the process's way into one file, and when to look at it
    connection  counters  serializers   three connections: one waits on a thread, two never wait
    in_place  files                     what is quick is written without the thread; what is on disk
    complaints                          what fails at every heartbeat, said once
    conf  settings  models  messages    names and shapes
    exceptions  schema

`store` knows SQL and no channel rules, `layers` knows channel rules and no SQL, `wakes` knows a
path and neither, `buffers` and `waiters` know nobody. Nothing below `layers` imports the ORM.

The rules of the house:

-   The row is the truth, the wake is a hint: subscribe, read, wait, read again.
-   One intent is one transaction, and where it can be, one statement: a second statement needs the
    interpreter's lock again, which a busy event loop keeps for milliseconds, while SQLite's write
    lock is held.
-   What is quick is done in place, if nobody has to be waited for; what may wait, or is long, costs
    one hand-over to the writing thread.
-   State changes are synchronous, awaits stand around them.
-   A cancelled receive loses nothing and doubles nothing.
-   Nothing grows without a bound.
"""
