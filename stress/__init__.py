"""The harness that proves the layer: `python -m stress --list`.

One noun, one file; each imports only what stands to its right, or beneath.

    __main__                                  the command line
    runner   report                           a whole run; a run as a page
    pictures tables                           what the page begins with; the documents' tables
    figures  compare                          what those show; two runs side by side
    scenarios/                                one scenario a file
    faults   troupe                           what is broken on purpose, and under whom
    lab      screen    charts                 where a measurement happens; how it is shown
    servers  chat                             real WebSocket servers, and the site that they serve
    program                                   which measurements, how often, how long
    children                                  real processes, as the harness sees them
    nursery  child                            real processes, from within: their birth and life
    clock    sabotage                         what can be broken in them
    sockets  limits                           what they do with sockets; how many there may be
    roles    window    recorder               what they do, keep in step by, and write down
    plan     layers    results                what to run, on what, and what came out
    verdict  measure   machine  redis_server  what the figures mean, and where they were measured
    history  ledger                           what happened

The rules of the house: every measurement starts real processes of its own; every message is in
the ledger; the ledger is the only stop-watch (a delay is the difference of two of its entries);
rivals take turns, round by round; no absolute time is asserted anywhere.
"""
