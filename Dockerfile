# Two stages: the toolchain stays behind. Built plain, without the feature `simulator`, from the lock file.
FROM rust:1.95-slim-bookworm AS build
# What jemalloc is built with.
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package wa-gateway --bin wa-gateway

FROM debian:bookworm-slim
# A fixed id, so that a volume keeps its owner over rebuilds. The folders are those of the original's volumes.
RUN groupadd --gid 10001 gateway \
    && useradd --uid 10001 --gid gateway --home-dir /app --no-create-home --no-log-init --shell /usr/sbin/nologin gateway \
    && install --directory --owner=gateway --group=gateway /app /app/wa_credentials /app/media
COPY --from=build /src/target/release/wa-gateway /usr/local/bin/wa-gateway
COPY --chmod=0755 docker/entrypoint /usr/local/bin/entrypoint
WORKDIR /app
ENV NODE_ENV=production
EXPOSE 5001
VOLUME ["/app/wa_credentials", "/app/media"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["wa-gateway", "--healthcheck"]
# Starts as root only to hand over volumes that the original wrote as root; see the script.
ENTRYPOINT ["entrypoint"]
CMD ["wa-gateway"]
