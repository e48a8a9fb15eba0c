"""The harness that proves the layer: `python -m stress --list`.

One noun, one file; each imports only what stands to its right, or beneath.

    __main__                                  the command line
    runner   report                           a whole run; a run as a page
    pictures tables                           the page's first figures; the documents' tables
    figures  compare                          the figures shown; two runs side by side
    scenarios/                                one scenario a file
    faults   troupe                           faults on purpose; the processes that meet them
    lab      screen    charts                 the place of a measurement; how it is shown
    servers  chat                             real WebSocket servers, and the site that they serve
    program                                   the measurements, how often, how long
    children                                  real processes, as the harness sees them
    nursery  child                            real processes, from within: their birth and life
    clock    sabotage                         tools that break things in them
    sockets  limits                           their work with sockets; the limit of open files
    roles    window    recorder               their work, their pace, and their notes
    plan     layers    results                what to run, on which layers; the results
    verdict  measure   machine  redis_server  the meaning of the figures; the machine
    history  ledger                           the events

The rules: Every measurement starts its own real processes. Every message is in the ledger. The
ledger is the only stop-watch: a delay is the difference of two of its entries. Rivals take turns,
round by round. No absolute time is asserted anywhere.
"""
