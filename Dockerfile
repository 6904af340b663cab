# An image with meshc, the CPU plugin and a Rust toolchain for model programs.
# docker build -t meshc . && docker run -v "$PWD:/work" meshc train switch_tiny --data text.txt --steps 100
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev git && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p meshc

FROM rust:1-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/meshc /usr/local/bin/meshc
ENV MESH_CACHE=/var/cache/mesh
RUN meshc plugin install cpu
WORKDIR /work
ENTRYPOINT ["meshc"]
