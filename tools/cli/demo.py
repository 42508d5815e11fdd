"""`billing demo`."""

from tools.cli.errors import FAILED, UNAVAILABLE, CliError
from tools.cli.output import Json, print_json


def demo(as_json: Json = False) -> None:
    """A hospital's day through the whole mesh, on servers of its own; every promise is checked at the end.

    Three tenants (two in Afghanistan, one in the UAE) open accounts, capture charges, split invoices, pay, over-pay, bounce a
    cheque, take credit notes and refunds, and make the usual mistakes. Exit code 1 if any promise was broken.

    Example: billing demo --json | jq .checks
    """
    from tools.demo.run import DemoBroken, run
    from tools.stack import StackError

    try:
        kept, figures = run(as_json=as_json)
    except StackError as error:
        raise CliError(f"the demo's servers did not start: {error}", UNAVAILABLE) from None
    except DemoBroken as error:
        raise CliError(f"the demo broke off: {error}; the logs are in {error.logs}", FAILED) from error
    if as_json:
        print_json(figures)
    if not kept:
        raise CliError("a promise was broken; the table above says which", FAILED)
