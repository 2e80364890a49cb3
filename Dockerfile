# One image a role; a role holds only what it runs. No image that serves holds torch.
#
#   docker build --target predictor  -t meshcast-predictor .
#   docker build --target forecaster -t meshcast-forecaster .
#   docker build --target analyzer   -t meshcast-analyzer .
#   docker build --target drift      -t meshcast-drift .
#   docker build --target gateway    -t meshcast-gateway .
#   docker build --target trainer    -t meshcast-trainer .      (the only one with torch)
ARG PYTHON=3.11
ARG DEBIAN=bookworm

FROM python:${PYTHON}-slim-${DEBIAN} AS sources
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/meshcast
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY gen ./gen
COPY clients ./clients
COPY servers ./servers
COPY gateway ./gateway

FROM sources AS build-service
RUN /opt/meshcast/bin/pip install '.[servers,otel]' \
    && ! /opt/meshcast/bin/python -c 'import torch' 2>/dev/null \
    && /opt/meshcast/bin/python -m compileall -q /opt/meshcast/lib

FROM sources AS build-gateway
RUN /opt/meshcast/bin/pip install '.[gateway,otel]' \
    && ! /opt/meshcast/bin/python -c 'import torch' 2>/dev/null \
    && /opt/meshcast/bin/python -m compileall -q /opt/meshcast/lib

FROM sources AS build-trainer
RUN /opt/meshcast/bin/pip install '.[embed,parquet]'

# What every role has: no compiler, no pip cache, no root. State is the only folder that is written to.
FROM python:${PYTHON}-slim-${DEBIAN} AS role
RUN groupadd --gid 10001 meshcast \
    && useradd --uid 10001 --gid meshcast --no-create-home --home-dir /var/lib/meshcast --shell /usr/sbin/nologin meshcast \
    && install -d -o meshcast -g meshcast /var/lib/meshcast
ENV PATH=/opt/meshcast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MESHCAST_RPC_HOST=0.0.0.0 \
    MESHCAST_RUNTIME_STATE_DIR=/var/lib/meshcast \
    MESHCAST_LOGS_FORMAT=json
WORKDIR /var/lib/meshcast
USER 10001:10001
STOPSIGNAL SIGTERM

# What every model service has; which one it is, and where, is all that its own stage says.
FROM role AS service
COPY --from=build-service /opt/meshcast /opt/meshcast
VOLUME /var/lib/meshcast
ENTRYPOINT ["python", "-m", "meshcast.services"]

FROM service AS predictor
EXPOSE 8101 9101
# The start period covers the measurement of back-ends at the first load on a host.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["meshcast", "probe", "127.0.0.1:8101", "--service", "meshcast.api.predictor.v1.PredictorService"]
CMD ["predictor", "--port", "8101"]

FROM service AS forecaster
EXPOSE 8102 9102
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["meshcast", "probe", "127.0.0.1:8102", "--service", "meshcast.api.forecaster.v1.ForecasterService"]
CMD ["forecaster", "--port", "8102"]

FROM service AS analyzer
EXPOSE 8103 9103
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["meshcast", "probe", "127.0.0.1:8103", "--service", "meshcast.api.analyzer.v1.AnalyzerService"]
CMD ["analyzer", "--port", "8103"]

FROM service AS drift
EXPOSE 8104 9104
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["meshcast", "probe", "127.0.0.1:8104", "--service", "meshcast.api.drift.v1.DriftService"]
CMD ["drift", "--port", "8104"]

FROM role AS gateway
COPY --from=build-gateway /opt/meshcast /opt/meshcast
EXPOSE 8000 8001 8002
# The empty name: a gateway lives while it answers, whatever its back-ends do.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["meshcast", "probe", "127.0.0.1:8001"]
ENTRYPOINT ["python", "-m", "meshcast.gateway"]

FROM role AS trainer
COPY --from=build-trainer /opt/meshcast /opt/meshcast
VOLUME /var/lib/meshcast
ENTRYPOINT ["meshcast", "train"]
CMD ["--help"]
