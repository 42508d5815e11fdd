"""One embedded stack per test run, started by the controlling process and shared by the xdist workers."""

import os
import sys

import pytest

from tools.stack import Stack

pytest_plugins = ["tests.fixtures.servers"]

STACK = pytest.StashKey[Stack]()

# A module runs whole in one process, so the longest begin first: one that comes last keeps a core waiting.
LONGEST = (
    "test_statement_runs",
    "test_fhir_import",
    "test_kill",
    "test_replay_redeliver",
    "test_replay_dlq",
    "test_cli",
    "test_replay_files",
    "test_schemathesis",
    "test_readme",
    "test_replay_rebuild",
    "test_cli_dev",
    "test_neighbours_away",
    "test_poison",
    "test_model",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before xdist starts its workers. A run of the pure tests alone starts no server."""
    config = session.config
    if _is_worker(config) or config.option.collectonly or _all_pure(config.args):
        return
    from tests.fixtures.servers import start_stack  # here, after pytest has taken it as a plugin

    stack = Stack(f"test-{os.getpid()}", ephemeral=True)
    config.stash[STACK] = stack
    start_stack(stack)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell each xdist worker which stack is the run's."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    if STACK in config.stash:
        node.workerinput["stack"] = config.stash[STACK].name  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    if _is_worker(config):  # xdist ends it without `atexit`
        typesetting = sys.modules.get("adapters.documents.typesetting")
        if typesetting is not None:
            typesetting.forget()
    elif STACK in config.stash:
        config.stash[STACK].stop()


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Stack:
    """The run's stack. Its PostgreSQL is shared: take the `database` fixture, and never restart this one."""
    if _is_worker(pytestconfig):
        return Stack(pytestconfig.workerinput["stack"])  # type: ignore[attr-defined]
    return pytestconfig.stash[STACK]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _all_pure(arguments: list[str]) -> bool:
    return bool(arguments) and all(
        any(pure in argument for pure in ("tests/domain", "tests/fuzz")) for argument in arguments
    )
