"""How fast Perdure is on this machine: `python -m benchmarks`, or `make bench`.

One JSON result on stdout, progress on stderr. Each measurement runs in a fresh process with a fresh folder:

    __main__    what to run, and the targets                  children   a fresh process for each measurement
    plan        which measurements, how big, what is derived  child      what runs in it
    programs    the functions that are measured               measure    clocks, memory, loop
    saturated   steps10, events                               alone      latency, long
    waiting     wait, fanout                                  suspended  sleeping runs, SIGKILL, restart
    brokers     `--log kafka://broker:9092`: steps10, floor and latency on Kafka, and
    pinned      two workers on a core each, against one
    floor       a bare loop that does only what a durable step cannot avoid

`peers_adapter` puts Perdure into the harness that measures other engines.
"""
