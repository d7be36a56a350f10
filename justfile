# Every task of the project. `just ci` is what CI runs.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the tasks.
default:
    @just --list

# Formatting, lints, documentation, dependency rule.
check: fmt clippy doc deps

# Formatting.
fmt:
    cargo fmt --all --check

# Lints, warnings denied.
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# Documentation, warnings denied.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# The README's test command.
test:
    cargo test --workspace

# The README's test command, failing where a kernel tier that this kind of machine has would be skipped.
test-all:
    REQUIRE_ISA="${REQUIRE_ISA:-x86-64-v3,x86-64-avx512vnni}" INSTA_UPDATE=no cargo test --workspace

# Shaders and sessions on a GPU, failing where there is none; software Vulkan will do (mesa-vulkan-drivers).
test-gpu:
    #!/usr/bin/env bash
    set -euo pipefail
    export REQUIRE_GPU=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
    cargo test --locked -p lfm-runtime --features wgpu --lib gpu::
    cargo test --locked -p lfm-runtime --features wgpu --test gpu
    # That has built lfm-run with the backend; the name is taken by the one without when the workspace is built.
    cp -f target/debug/lfm-run target/debug/lfm-run-wgpu
    LFM_RUN_WGPU="$PWD/target/debug/lfm-run-wgpu" cargo test --locked --workspace --test gpu_parity

# `lfmc compare` with the bundle on a GPU. Compiles most of burn once more, so it is no part of `ci`.
test-gpu-compare:
    REQUIRE_GPU=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" \
        cargo test --locked --workspace --features lfm-tests/wgpu --test compare

# Lints of what only the GPU backend compiles.
clippy-gpu:
    cargo clippy --locked -p lfm-runtime --features wgpu --all-targets -- -D warnings

# Size of the device program with the GPU backend: at most 12 MB.
size-gpu:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --locked --profile dist -p lfm-runtime --bin lfm-run --features wgpu
    bytes=$(stat -c %s target/dist/lfm-run)
    echo "lfm-run with wgpu: $bytes bytes, at most 12000000"
    if [ "$bytes" -gt 12000000 ]; then echo "error: lfm-run with wgpu is too large" >&2; exit 1; fi

# The demo: export the demo checkpoint and let it answer.
demo *ARGS:
    cargo run --release --bin lfmc -- demo {{ARGS}}

# Speed of each kernel: `just bench`, `just bench matvec/q4_0`. Reports in target/criterion.
bench *FILTER:
    cargo bench --locked -p lfm-kernels --bench kernels -- {{FILTER}}

# Our speed and llama.cpp's on one GGUF file, measured alternately (tests/peer; needs `pip install llama-cpp-python`).
bench-peer FILE *ARGS:
    cargo build --locked --release --bin lfmc --bin lfm-run
    "${PYTHON:-python3}" tests/peer/bench_peer.py {{quote(FILE)}} {{ARGS}}

# Accept changed snapshots and golden graphs; review the diff like code.
bless:
    UPDATE_GOLDEN=1 INSTA_UPDATE=always cargo test --workspace

# runtime → graphs ← export → model → burn: the device side never sees burn or a wrapped C library, and lean has no
# text, GPU or async. (blake3 names `cc` among its build dependencies, but with `pure` it compiles no C.)
deps:
    #!/usr/bin/env bash
    set -euo pipefail
    tree() { cargo tree --locked --prefix none --edges normal "$@" | sed 's/ .*//' | sort -u; }
    forbid() {
        local what=$1 pattern=$2
        local found
        found=$(grep -E "$pattern" || true)
        if [ -n "$found" ]; then echo "error: $what must not depend on: $found" >&2; exit 1; fi
    }
    tree -p lfm-graphs  | forbid lfm-graphs 'burn|^lfm-(model|export|runtime)$|^onnx|^tokenizers$|^clap$'
    tree -p lfm-kernels | forbid lfm-kernels 'burn|^lfm-(model|export|runtime)$|^onnx|^clap$|-sys$'
    tree -p lfm-runtime | forbid lfm-runtime 'burn|^lfm-(model|export)$|^onnx|^tokio$|^cubecl|-sys$'
    tree -p lfm-runtime --no-default-features | forbid 'lean lfm-runtime' 'burn|^lfm-(model|export)$|^tokenizers$|^minijinja$|^wgpu$|^tokio$|-sys$'
    tree -p lfm-model   | forbid lfm-model '^lfm-(graphs|export|runtime)$'
    echo "dependency rule holds"

# Sizes of the device program: lean at most 2 MB, default at most 8 MB.
size:
    #!/usr/bin/env bash
    set -euo pipefail
    limit() {
        local what=$1 most=$2; shift 2
        cargo build --locked --profile dist -p lfm-runtime --bin lfm-run "$@"
        local bytes
        bytes=$(stat -c %s target/dist/lfm-run)
        echo "$what lfm-run: $bytes bytes, at most $most"
        if [ "$bytes" -gt "$most" ]; then echo "error: $what lfm-run is too large" >&2; exit 1; fi
    }
    limit default 8000000
    limit lean 2000000 --no-default-features

# Static device programs for x86-64 and AArch64, in target/static: default at most 8 MB, lean at most 2 MB. They need no
# shared library, and their making no C compiler (rustup target add x86_64-unknown-linux-musl aarch64-unknown-linux-musl).
dist:
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p target/static
    limit() {
        local name=$1 most=$2 target=$3; shift 3
        cargo build --locked --profile dist --target "$target" -p lfm-runtime --bin lfm-run "$@"
        cp "target/$target/dist/lfm-run" "target/static/$name"
        local bytes
        bytes=$(stat -c %s "target/static/$name")
        echo "$name: $bytes bytes, at most $most"
        if [ "$bytes" -gt "$most" ]; then echo "error: $name is too large" >&2; exit 1; fi
    }
    for arch in x86_64 aarch64; do
        limit "lfm-run-$arch" 8000000 "$arch-unknown-linux-musl"
        limit "lfm-run-lean-$arch" 2000000 "$arch-unknown-linux-musl" --no-default-features
    done

# Arm kernels under qemu-aarch64, each tier against the portable one; then the static programs on bundles of every
# weight format (apt install qemu-user gcc-aarch64-linux-gnu).
test-arm: dist
    #!/usr/bin/env bash
    set -euo pipefail
    # A test dependency compiles some C.
    export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER=qemu-aarch64 QEMU_CPU=max
    REQUIRE_ISA=aarch64-neon,aarch64-dotprod,aarch64-i8mm \
        cargo test --locked -p lfm-kernels --lib --target aarch64-unknown-linux-musl
    LFM_STATIC="$PWD/target/static" REQUIRE_ARM=1 cargo test --locked --workspace --test static_programs

# Random mutations of a bundle, a GGUF file and a safetensors file: refused, or what any other reader makes of them.
mutations COUNT="20000":
    MUTATIONS={{quote(COUNT)}} cargo test --locked --release -p lfm-tests --test mutations -- --nocapture

# Exports that are killed, run out of disk or meet another one, at random points of each kind.
crash-tests POINTS="200":
    CRASHES={{quote(POINTS)}} cargo test --locked --release -p lfm-export --test crash -- --nocapture

# Fuzzers, some seconds for each target or one of them: `just fuzz`, `just fuzz gguf 600`. Needs a nightly toolchain, a C++
# compiler and `cargo install cargo-fuzz`. A find is in tests/fuzz/artifacts; keep it in tests/corpus once it is mended.
fuzz TARGET="all" SECONDS="60":
    #!/usr/bin/env bash
    set -euo pipefail
    export TMPDIR=/dev/shm
    cargo +nightly fuzz build --fuzz-dir tests/fuzz
    programs=tests/fuzz/target/x86_64-unknown-linux-gnu/release
    "$programs/seeds" tests/fuzz/corpus
    targets={{quote(TARGET)}}
    if [ "$targets" = all ]; then targets=$(ls tests/fuzz/targets | sed 's/\.rs$//'); fi
    for target in $targets; do
        echo "== $target"
        mkdir -p "tests/fuzz/artifacts/$target"
        ASAN_OPTIONS=detect_odr_violation=0 "$programs/$target" -max_total_time={{quote(SECONDS)}} -timeout=60 \
            -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=131072 -print_final_stats=1 -verbosity=0 \
            -artifact_prefix="tests/fuzz/artifacts/$target/" "tests/fuzz/corpus/$target" "tests/corpus/$target"
    done

# Undefined behaviour in the parsers, the verifier and the planner, on this machine and on 32 bits. Needs
# `rustup component add miri rust-src --toolchain nightly`.
miri *FILTER="bundle:: text:: plan:: verify:: dim:: id::":
    #!/usr/bin/env bash
    set -euo pipefail
    # Without it, insta would start cargo to find it, which Miri cannot.
    export INSTA_WORKSPACE_ROOT="$PWD"
    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance" CARGO_TARGET_DIR=target/miri PROPTEST_CASES=4
    for machine in x86_64-unknown-linux-gnu i686-unknown-linux-gnu; do
        cargo +nightly miri test --target "$machine" -p lfm-graphs --lib -- {{FILTER}} --skip mutations
    done

# Kernels, thread pool and sessions under AddressSanitizer, which leaves bus errors to us. Needs a nightly toolchain.
sanitize:
    ASAN_OPTIONS=handle_sigbus=0 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/sanitize \
        cargo +nightly test --target x86_64-unknown-linux-gnu -p lfm-kernels -p lfm-runtime --lib --test session --test changed_file

# Golden graphs are part of `test`; this runs them alone.
golden:
    cargo test -p lfm-export --test golden_graphs

# What CI runs; `dist`, which `test-arm` needs, limits the sizes.
ci: fmt clippy doc deps test-all test-arm clippy-gpu test-gpu size-gpu
