# Thin over `cargo xtask`; needs Rust (rustup), a C compiler and, for what runs containers, root.
.PHONY: demo test bench check images clean setup

demo: setup
	@cargo xtask demo

test: setup
	@cargo xtask test

bench: setup
	@cargo xtask bench

check: setup
	@cargo xtask check

images: setup
	@cargo xtask images

clean:
	cargo clean

# The target's standard library and a C compiler, when they are missing.
setup:
	@command -v gcc >/dev/null || { apt-get update -qq && apt-get install -y -qq gcc libc6-dev; }
	@rustup target list --installed | grep -q x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl
