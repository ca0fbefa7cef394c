# The gateway and an engine in one image: `--target cpu`, the last one and so the default, or `--target cuda`.
# docker-compose.yml builds and runs either.
FROM python:3.12-slim-bookworm AS sources
# A compiler, for the kernels.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/penstock
WORKDIR /src
# What dependencies follow from comes first: they change seldom, and torch is large.
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gateway/version.py gateway/version.py
COPY kernels/providers/cpu/variants.py kernels/providers/cpu/variants.py

FROM sources AS build-cpu
# An index with CPU builds of torch saves gigabytes; README.md says which to name here.
ARG PIP_EXTRA_INDEX_URL=""
RUN /opt/penstock/bin/pip install --no-cache-dir '.[tracing]'
COPY gateway gateway
COPY engine engine
COPY kernels kernels
COPY observability observability
RUN rm -rf build && /opt/penstock/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM sources AS build-cuda
# The builds of torch on PyPI bring CUDA's libraries; the driver is the host's.
RUN /opt/penstock/bin/pip install --no-cache-dir '.[tracing]'
COPY gateway gateway
COPY engine engine
COPY kernels kernels
COPY observability observability
RUN rm -rf build && /opt/penstock/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.12-slim-bookworm AS runtime
# OpenMP, where torch does not bring it under its own name.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
# The folder is there so that a volume mounted over it belongs to the user.
RUN useradd --create-home penstock && install -d -o penstock -g penstock /home/penstock/.cache/huggingface
WORKDIR /home/penstock
ENV PATH=/opt/penstock/bin:$PATH PENSTOCK_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["penstock"]
CMD ["serve"]

FROM runtime AS cuda
# Triton compiles what starts its kernels.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build-cuda /opt/penstock /opt/penstock
USER penstock

FROM runtime AS cpu
COPY --from=build-cpu /opt/penstock /opt/penstock
USER penstock
