# One image for every role: `billing api` by default, `billing worker` with WORKER=true, any other role as an argument.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# "+psutil" for compose.yaml, whose sandbox is a development tool; nothing for production.
ARG EXTRA_PACKAGES=""
WORKDIR /build
COPY pyproject.toml requirements.lock README.md tools/deploy/image_requirements.py ./
# The part of the project's own lock that the service runs on, hashes and all; wheels only, so that nothing needs a compiler.
RUN python image_requirements.py ${EXTRA_PACKAGES} > runtime.lock \
    && python image_requirements.py setuptools > build.lock \
    && python -m venv /opt/billing \
    && /opt/billing/bin/pip install --only-binary=:all: --require-hashes -r runtime.lock \
    && python -m pip install --only-binary=:all: --require-hashes -r build.lock
COPY schemas schemas
COPY domain domain
COPY adapters adapters
COPY handlers handlers
COPY gateway_shim gateway_shim
COPY tools tools
# Installed, not copied: `billing` is on the path, and what is not part of the packages stays out. pip itself goes: nothing is
# installed at run time.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/billing/bin/pip install --no-deps dist/*.whl \
    && /opt/billing/bin/pip uninstall --yes pip setuptools \
    && /opt/billing/bin/python -m compileall -q /opt/billing/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="billing" \
      org.opencontainers.image.description="A hospital group's billing mesh: shim, handlers, worker and migrations" \
      org.opencontainers.image.source="service-billing"
# A number, so that runAsNonRoot can be checked; no home, no shell, nothing of its own on disk.
RUN groupadd --gid 10001 billing && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin billing
COPY --from=build /opt/billing /opt/billing
# What `billing canary check` asks; in the chart it is the same file.
COPY charts/billing/canary.json /usr/share/billing/canary.json
# The root file system is read-only; /tmp is what may be written, and bytecode is there already. Fonts are in the wheels.
# Two arenas: threads that check and format would each keep one of their own (5 % of a GL export's memory).
ENV PATH=/opt/billing/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2
USER 10001:10001
WORKDIR /tmp
EXPOSE 3035 9464
STOPSIGNAL SIGTERM
# Liveness, not readiness: a neighbour that is away is no reason to restart. Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('METRICS_PORT', '9464') + '/livez', timeout=4)"]
ENTRYPOINT ["billing"]
CMD ["api"]
