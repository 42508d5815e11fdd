"""Hypothesis profiles. `ci` (the default) is bounded and gives the same examples every time; `dev` searches on."""

import os

from hypothesis import HealthCheck, settings

# The stateful model runs a whole batch engine per step; how long one example takes says nothing on a shared machine.
settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, max_examples=1_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
