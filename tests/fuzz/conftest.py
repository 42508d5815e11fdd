"""The profiles of the pure tests: `ci` by default, `long` with BILLING_LONG=1."""

import tests.domain.conftest  # noqa: F401  registers and loads them
