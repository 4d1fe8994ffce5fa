# Tidemill's two images:
#
#     docker build --target tidemill .                        the command alone: producer, results API, no networks
#     docker build --target worker .                          with libtorch and the models: workers on every lane
#     docker build --target worker --build-arg TORCH=cuda .   the same, and able to use a GPU
#
# What goes into the executables is pinned: crates by Cargo.lock, libtorch and the models' weights by bin/pinned.toml. The
# images below, and what apt gets from Debian, are not: they follow their release, so that an image built anew has the
# corrections of its day. To pin these images too, name them by digest: --build-arg DEBIAN=trixie-slim@sha256:…
#
# Behind a proxy with a certificate authority of its own, hand its certificates in: --secret id=ca,src=FILE.

# 1: Cargo.toml says which Rust it needs at least, and any later one builds it; another major would be another language.
# trixie: the builder's libc must not be newer than that of the image below.
ARG RUST=1-trixie
# The stable Debian of that name, in its small form: libc, libstdc++ and certificates are all that the command needs. Another
# release would be another libc; within this one there are only corrections.
ARG DEBIAN=trixie-slim
# cpu, or cuda: which libraries the worker's image gets. The executable is the same.
ARG TORCH=cpu


# ---- Building ----

FROM rust:${RUST} AS tools
WORKDIR /src
COPY bin/setup bin/
RUN bin/setup build
# A mount that is not asked for is not there, and the line does nothing.
RUN --mount=type=secret,id=ca,target=/usr/local/share/ca-certificates/build.crt update-ca-certificates

# Both builds name both packages, and one executable: so the crates that both need are compiled alike, and once. Their
# target/ is that of every build on this machine, of other checkouts too, and COPY keeps the files' times, by which cargo
# tells what it has compiled: bin/date-sources makes these times true.
FROM tools AS build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=tidemill-target,target=/src/target,sharing=locked \
    bin/date-sources \
 && cargo build --locked --release --package tidemill-cli --package tidemill-vision --bin tidemill \
 && install -D --target-directory=/out target/release/tidemill

FROM tools AS fetch
COPY bin bin

FROM fetch AS models
COPY models models
RUN --mount=type=cache,target=/root/.cache/tidemill,sharing=locked bin/models

FROM fetch AS torch-cpu
RUN --mount=type=cache,target=/root/.cache/tidemill,sharing=locked bin/libtorch

FROM fetch AS torch-cuda
RUN --mount=type=cache,target=/root/.cache/tidemill,sharing=locked bin/libtorch cuda && mv .libtorch-cuda .libtorch

FROM torch-${TORCH} AS torch

FROM torch-cpu AS build-vision
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=tidemill-target,target=/src/target,sharing=locked \
    bin/date-sources \
 && cargo build --locked --release --package tidemill-cli --package tidemill-vision --bin tidemill-vision \
 && install -D --target-directory=/out target/release/tidemill-vision


# ---- Running ----

FROM debian:${DEBIAN} AS tidemill
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
# The number is fixed, so that the next version can write the volumes of this one. A new volume takes its owner from here.
RUN groupadd --system --gid 10001 tidemill \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/tidemill --shell /usr/sbin/nologin tidemill \
 && install -d --owner=tidemill --group=tidemill /var/lib/tidemill /var/lib/tidemill/blobs
COPY config/cluster.toml /etc/tidemill/cluster.toml
# Cards without weights: whoever submits holds a model's name against them.
COPY models /usr/local/share/tidemill/models
COPY --from=build /out/tidemill /usr/local/bin/
LABEL org.opencontainers.image.title="tidemill" \
      org.opencontainers.image.description="Runs a task over many inputs on many machines: every outcome once, and in order" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV TIDEMILL_CONFIG=/etc/tidemill/cluster.toml
USER 10001:10001
WORKDIR /var/lib/tidemill
STOPSIGNAL SIGTERM
EXPOSE 8460
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["tidemill", "health", "http://127.0.0.1:8460/readyz"]
ENTRYPOINT ["tidemill"]
CMD ["results-api"]

FROM tidemill AS worker
COPY --from=torch /src/.libtorch/lib /usr/local/lib/tidemill
COPY --from=models /src/models /usr/local/share/tidemill/models
COPY --from=build-vision /out/tidemill-vision /usr/local/bin/
LABEL org.opencontainers.image.title="tidemill worker"
# The folder goes into the library path too, for what CUDA opens by name while it runs. The other is what NVIDIA's runtime
# for containers asks of an image: which parts of the driver it wants.
ENV TIDEMILL__VISION__LIBTORCH=/usr/local/lib/tidemill \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["tidemill", "health", "http://127.0.0.1:8461/readyz"]
CMD ["worker"]
