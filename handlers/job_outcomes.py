"""How the handling of a job message can end other than well, and who is told."""


class JobEnded(Exception):
    """The job was cancelled, has failed elsewhere, or is done: there is nothing to do. Not an error."""


class Stopping(Exception):
    """The worker is being stopped: what is left is for another one, at once."""


class Outage(Exception):
    """Something that no job can be reported without is away (PostgreSQL, the command groups). Waited for, for as long as it
    takes: it uses no delivery up."""


class JobFailure(Exception):
    """The job cannot go on. `code` and `detail` go on the job: `detail` names objects and ids, never a patient.

    `retryable`: tried again with back-off before the job is failed.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.retryable = code, detail, retryable
