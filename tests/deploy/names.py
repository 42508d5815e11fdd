"""Which metrics a query names, and which there are: a metric that is renamed in the code fails whoever still asks for it."""

import re
from functools import cache
from http import HTTPStatus

from schemas.codes import MEANINGS, Code
from tools.docs.metrics import metrics

# Codes that say that something was away: an error of ours or of a neighbour's, where other refusals are answers.
AWAY = {code.value for code in Code if code.retryable and MEANINGS[code].http_status == HTTPStatus.SERVICE_UNAVAILABLE}


@cache
def known_series() -> frozenset[str]:
    """Every name that a query may use, histograms with their suffixes."""
    return frozenset(series for metric in metrics() for series in metric.series)


def named_series(query: str) -> set[str]:
    return set(re.findall(r"\bbilling_[a-z0-9_]+", query))
