"""All cases, in the order in which they start: those that measure the whole machine come when it is idle."""

from . import (
    chaos,
    close,
    command,
    crowd,
    destinations,
    edges,
    failover,
    floods,
    guides,
    keys,
    liars,
    load,
    machine,
    mappings,
    operations,
    outage,
    outlive,
    paths,
    programs,
    promises,
    proxies,
    recovery,
    restart,
    reverse,
    robust,
    splice,
    ssh,
    stuck,
    subflows,
    threads,
    upgrade,
    ways,
)


def all_cases():
    modules = (stuck, crowd, recovery, chaos, upgrade, outlive, close, restart, promises, load, keys, floods, liars, robust, edges, ways, proxies, destinations,
               reverse, failover, outage, paths, subflows, threads, machine, command, mappings, operations, guides, ssh, splice, programs)
    return [case for module in modules for case in module.cases()]
