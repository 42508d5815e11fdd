"""The `billing` command line. Importing it is cheap; every command imports what it needs when it runs."""

import sys


def main() -> None:
    """Run `billing`. Ends the process with the exit codes of tools/cli/errors.py."""
    from tools.cli import collector

    collector.relax()
    from tools.cli import collector

    collector.relax()  # before the imports: a fifth of what they cost
    from tools.cli.app import app
    from tools.cli.errors import UNAVAILABLE, USAGE, CliError

    try:
        app()
    except CliError as error:
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Not imported for their classes' sake alone: what is not imported was not raised.
        if _is(error, "adapters.settings", "SettingsError"):
            _end(str(error), USAGE)
        if _is(error, "tools.stack.process", "StackError"):
            _end(str(error), UNAVAILABLE)
        raise


def _is(error: Exception, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _end(message: str, exit_code: int) -> None:
    print(f"billing: {message}", file=sys.stderr)
    sys.exit(exit_code)
