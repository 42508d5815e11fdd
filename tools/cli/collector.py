"""Python's garbage collector, set for processes of which much stays and the rest dies at once (docs/decisions/0041).

Reference counts free nearly everything; the collector is there for cycles, of which a batch makes few. With CPython's own
thresholds it went over every object of every imported module several times a second, a fifth of the handlers' CPU time.
"""

import gc

# A batch of 500 commands makes some 30,000 containers; what is young is looked through about once a batch, what is old rarely.
_THRESHOLDS = (50_000, 20, 20)


def relax() -> None:
    """As early as can be: importing makes objects by the hundred thousand, all of which stay."""
    gc.set_threshold(*_THRESHOLDS)


def settle() -> None:
    """When everything is imported: what is there now stays, and is never looked through again."""
    gc.collect()
    gc.freeze()
