# syntax=docker/dockerfile:1
# docker build -t tiergate .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY docs/check.md docs/reasons.md docs/
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin tiergate && cp target/release/tiergate /tiergate

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="tiergate" \
      org.opencontainers.image.description="Decides, for an Envoy or Istio gateway, who may call which model and how much" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /tiergate /usr/local/bin/tiergate
USER 65532:65532
EXPOSE 50051 8080
ENTRYPOINT ["/usr/local/bin/tiergate"]
