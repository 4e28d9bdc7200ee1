# Thin over `cargo xtask`; needs Rust (rustup), a C compiler and, for what runs containers, root.
.PHONY: demo test bench fuzz check images clean setup

demo: setup
	@cargo xtask demo

test: setup
	@cargo xtask test

bench: setup
	@cargo xtask bench

# A minute for each parser of foreign bytes; `cargo xtask fuzz --seconds 600 json yaml` for some and longer.
fuzz: setup
	@cargo xtask fuzz

check: setup
	@cargo xtask check

images: setup
	@cargo xtask images

clean:
	cargo clean

# What cargo itself needs: a C compiler, the target's standard library, the tools of `check`.
setup:
	@command -v rustup >/dev/null || { echo "Rust is missing: install it with rustup (https://rustup.rs)" >&2; exit 1; }
	@command -v gcc >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; }
	@rustup target list --installed | grep -q x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
