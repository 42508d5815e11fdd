"""Why a replay does not begin, or stops. Messages are for a person and name the way out."""


class ReplayError(Exception):
    """It cannot be done as asked: wrong arguments, or a refusal by one of the rails. Nothing was sent."""


class ReplayAway(Exception):
    """NATS is away or refuses. What was sent before is in the run's checkpoint."""


class Stopped(Exception):
    """A rail or a person stopped the run; it can be resumed."""
