"""The harness that proves the layer: `python -m stress --list`.

One noun, one file; a row imports only rows beneath it.

    __main__                                  the command line
    runner   compare   report                 a whole run; two runs side by side; a run as a page
    scenarios/                                one scenario a file
    lab      screen    charts                 where a measurement happens; how it is shown
    children                                  real processes, as the harness sees them
    nursery  child                            real processes, from within: their birth and life
    roles    window    recorder               what they do, keep in step by, and write down
    plan     layers    redis_server  results  what to run, on what, and what came out
    ledger   measure   machine                what the figures mean

The rules of the house: every measurement starts real processes of its own; every message is in
the ledger; the ledger is the only stop-watch (a delay is the difference of two of its entries);
rivals take turns, round by round; no absolute time is asserted anywhere.
"""
