# syntax=docker/dockerfile:1
# Two images from one file. `operator` holds the control plane and no torch; `runtime` holds Ray, torch,
# the driver and the training library, and runs in every pod of a job.
#
#   docker build --target operator -t scaling-operator:0.1.0 .
#   docker build --target runtime  -t scaling-runtime:0.1.0 .
#
# BASE is any image of Debian or Ubuntu with Python 3.11 or later, its venv module, and bash.
ARG BASE=python:3.11-slim

# The file system is read-only later, so bytecode that is not compiled here would be compiled anew at every
# start of a process. That holds for the standard library too: the official Python images come without its.
# A numeric user lets Kubernetes check runAsNonRoot without looking into the image; some bases have one of that number.
FROM ${BASE} AS common
RUN { getent group 1000 || groupadd --gid 1000 scaling; } \
    && { getent passwd 1000 || useradd --uid 1000 --gid 1000 --create-home scaling; } \
    && python3 -m compileall -q -x '/(site-packages|tests?)/' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PYTHONUNBUFFERED=1

FROM common AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY requirements/uv.txt requirements/uv.txt
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && /opt/uv/bin/uv venv --python python3 /opt/scaling
ENV PATH=/opt/scaling/bin:/opt/uv/bin:${PATH} \
    VIRTUAL_ENV=/opt/scaling

# The package is built apart, so that no build tool ends up in an image.
FROM build AS package
COPY requirements/dev.txt requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY operator operator
COPY training training
COPY cli cli
RUN uv build --wheel --require-hashes --build-constraints requirements/dev.txt --out-dir /wheel \
    && uv pip install --no-deps --prefix /package /wheel/*.whl

FROM build AS operator-requirements
COPY requirements/operator.txt requirements/operator.txt
RUN uv pip install --require-hashes -r requirements/operator.txt

FROM build AS runtime-requirements
COPY requirements/runtime.txt requirements/runtime.txt
RUN uv pip install --require-hashes -r requirements/runtime.txt

# Both images have their requirements in one layer and this project in another: a change of code leaves the
# layer of several gigabytes as it is, in registries and on nodes.
FROM common AS operator
COPY --from=operator-requirements /opt/scaling /opt/scaling
COPY --from=package /package /opt/scaling
ENV PATH=/opt/scaling/bin:${PATH}
USER 1000:1000
ENTRYPOINT ["scaling-operator"]

FROM common AS runtime
COPY --from=runtime-requirements /opt/scaling /opt/scaling
COPY --from=package /package /opt/scaling
ENV PATH=/opt/scaling/bin:${PATH} \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
CMD ["scaling-driver"]
