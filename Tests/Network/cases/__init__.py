"""All cases, in the order in which they start: those that measure the whole machine come when it is idle."""

from . import chaos, close, programs


def all_cases():
    return [case for module in (chaos, close, programs) for case in module.cases()]
