# Perdure, for compose.yaml and deploy/. An app stands on top of it:
#
#   FROM perdure
#   COPY shop.py .
FROM python:3.13-slim
COPY pyproject.toml README.md LICENSE /src/
COPY engine /src/engine
COPY connectors /src/connectors
COPY schemas /src/schemas
RUN pip install --no-cache-dir '/src[kafka,fast,server,postgres,otel]' && rm -r /src
# A number, so that Kubernetes sees that it is not root. New volumes at /data take their owner from the folder here.
RUN useradd --uid 10001 perdure && install --directory --owner=perdure /data
USER 10001
WORKDIR /app
ENTRYPOINT ["perdure"]
