"""The harness that proves the layer: `python -m stress --list`.

One noun, one file; a row imports only rows beneath it.

    __main__                                  the command line
    runner   compare   report                 a whole run; two runs; a run as a page
    scenarios/                                one scenario a file
    lab      screen    charts                 where a measurement happens; how it is shown
    children   roles                          processes, and what they are told to do
    plan     layers    redis_server  results  what to run, on what, and what came out
    recorder                                  a process's own ledger, on disk
    ledger   measure   machine                pure: what the figures mean

The rules of the house: every measurement starts real processes of its own; every message is in
the ledger; the ledger is the only stop-watch (a delay is the difference of two of its entries);
rivals take turns, round by round; no absolute time is asserted anywhere.
"""
