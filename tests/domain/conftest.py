"""Hypothesis profiles. `ci` (the default) is bounded and gives the same examples every time; `long` (`make test-long`) gives ten
times as many, `dev` searches on."""

import os

from hypothesis import HealthCheck, settings

# The stateful model runs a whole batch engine per step; how long one example takes says nothing on a shared machine.
_QUIET = [HealthCheck.too_slow]
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50, suppress_health_check=_QUIET)
settings.register_profile("long", deadline=None, derandomize=True, max_examples=500, suppress_health_check=_QUIET)
settings.register_profile("dev", deadline=None, max_examples=1_000, suppress_health_check=_QUIET)
_DEFAULT = "long" if os.environ.get("BILLING_LONG") else "ci"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _DEFAULT))
