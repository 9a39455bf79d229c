# syntax=docker/dockerfile:1
# Two images from one file. `operator` holds the control plane and no torch; `runtime` holds Ray, torch,
# the driver and the training library, and runs in every pod of a job.
#
#   docker build --target operator -t scaling-operator:0.1.0 .
#   docker build --target runtime  -t scaling-runtime:0.1.0 .
#
# BASE is any image with Debian's or Ubuntu's Python 3.11 or later.
ARG BASE=python:3.11-slim

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/uv.txt requirements/uv.txt
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --require-hashes -r requirements/uv.txt \
    && /opt/uv/bin/uv venv /opt/scaling
ENV PATH=/opt/scaling/bin:/opt/uv/bin:${PATH} \
    VIRTUAL_ENV=/opt/scaling
# A numeric user lets Kubernetes check runAsNonRoot without looking into the image.
RUN groupadd --gid 1000 scaling && useradd --uid 1000 --gid 1000 --create-home scaling

# The wheel is built apart, so that no build tool ends up in an image.
FROM base AS wheel
COPY requirements/dev.txt requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY operator operator
COPY training training
COPY cli cli
RUN uv build --wheel --out-dir /wheel

# Bytecode is compiled at build time: the file system is read-only later, and Ray starts three times as fast.
FROM base AS operator-files
COPY requirements/operator.txt requirements/operator.txt
RUN uv pip install --no-cache --require-hashes --compile-bytecode -r requirements/operator.txt
COPY --from=wheel /wheel /wheel
RUN uv pip install --no-cache --no-deps --compile-bytecode /wheel/*.whl

FROM base AS runtime-files
COPY requirements/runtime.txt requirements/runtime.txt
RUN uv pip install --no-cache --require-hashes --compile-bytecode -r requirements/runtime.txt
COPY --from=wheel /wheel /wheel
RUN uv pip install --no-cache --no-deps --compile-bytecode /wheel/*.whl

FROM ${BASE} AS operator
COPY --from=operator-files /opt/scaling /opt/scaling
ENV PATH=/opt/scaling/bin:${PATH} PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["scaling-operator"]

FROM ${BASE} AS runtime
COPY --from=base /etc/passwd /etc/passwd
COPY --from=base /etc/group /etc/group
COPY --from=runtime-files /opt/scaling /opt/scaling
ENV PATH=/opt/scaling/bin:${PATH} PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
CMD ["scaling-driver"]
