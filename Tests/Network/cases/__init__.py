"""All cases, in the order in which they start: those that measure the whole machine come when it is idle."""

from . import chaos, close, command, crowd, floods, keys, mappings, operations, programs, promises, recovery, restart, robust, stuck


def all_cases():
    modules = (stuck, crowd, recovery, chaos, close, restart, promises, keys, floods, robust, command, mappings, operations, programs)
    return [case for module in modules for case in module.cases()]
