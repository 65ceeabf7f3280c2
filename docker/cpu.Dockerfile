# For machines without a GPU, from the root of the repository: docker build -f docker/cpu.Dockerfile -t kbd:cpu .
FROM debian:12-slim AS build
# Debian keeps no versions but the last of each package, so that they cannot be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.11-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN docker/install.sh /opt/kbd

FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.11 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 kbd \
    # Also for those who come with another number: docker run --user
    && mkdir /work \
    && chmod 0777 /home/kbd /work
COPY --from=build /opt/kbd /opt/kbd
ENV HOME=/home/kbd PATH=/opt/kbd/bin:$PATH
USER 1000
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=1m CMD ["kbd", "--version"]
ENTRYPOINT ["kbd"]
CMD ["--help"]
