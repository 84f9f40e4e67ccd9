# kvm-exit-exporter on Debian. deploy/README.md, "A container", lists the options that the container needs.
#
#   docker build -t kvm-exit-exporter .                          Debian 12: Python 3.11, bcc 0.26
#   docker build --build-arg DEBIAN=trixie-slim ...              Debian 13: Python 3.13, bcc 0.31
ARG DEBIAN=bookworm-slim

# hadolint ignore=DL3006
FROM docker.io/library/debian:${DEBIAN} AS build
SHELL ["/bin/bash", "-o", "errexit", "-o", "pipefail", "-c"]
# Package versions are not pinned: Debian's archive keeps only the newest version, and a rebuild should get it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip python3-setuptools python3-wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
# Install the package into /out/usr/local and byte-compile it. The next stage installs the dependencies from Debian.
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
# The exporter starts as root with only the capabilities in deploy/README.md. Once the BPF program is loaded, it becomes
# the user kvm-exit-exporter (run_as).
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "/usr/local/lib/kvm-exit-exporter/healthcheck.py"]
ENTRYPOINT ["kvm-exit-exporter"]
CMD ["serve", "--config.file=/etc/kvm-exit-exporter/config.yaml"]
