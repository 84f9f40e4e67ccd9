# kvm-exit-exporter on Debian. What it needs of the host: deploy/README.md, "A container".
#
#   docker build -t kvm-exit-exporter .                          Debian 12: Python 3.11, bcc 0.26
#   docker build --build-arg DEBIAN=trixie-slim ...              Debian 13: Python 3.13, bcc 0.31
ARG DEBIAN=bookworm-slim

# hadolint ignore=DL3006
FROM docker.io/library/debian:${DEBIAN} AS build
SHELL ["/bin/bash", "-o", "errexit", "-o", "pipefail", "-c"]
# Debian's packages have no older versions to pin, but by a snapshot: a rebuild is for their newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip python3-setuptools python3-wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
# Into /out/usr/local, byte-compiled. Its dependencies are Debian's, in the next stage.
RUN python3 -m pip install --no-cache-dir --no-index --no-build-isolation --no-deps --no-warn-script-location \
    --break-system-packages --root-user-action=ignore --root=/out .

# hadolint ignore=DL3006
FROM docker.io/library/debian:${DEBIAN}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-bcrypt python3-bpfcc python3-prometheus-client python3-tornado python3-yaml \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log \
    && useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
        kvm-exit-exporter
COPY --from=build /out /
COPY deploy/container/healthcheck.py /usr/local/lib/kvm-exit-exporter/healthcheck.py
COPY config.yaml /etc/kvm-exit-exporter/config.yaml

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kvm-exit-exporter" \
      org.opencontainers.image.description="Prometheus exporter for KVM exits" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

EXPOSE 9939
# It starts as root, with the capabilities that deploy/README.md names and no others, and drops to the user
# kvm-exit-exporter (run_as) once the BPF program is loaded.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "/usr/local/lib/kvm-exit-exporter/healthcheck.py"]
ENTRYPOINT ["kvm-exit-exporter"]
CMD ["serve", "--config.file=/etc/kvm-exit-exporter/config.yaml"]
