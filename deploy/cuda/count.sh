#!/bin/sh
# Counts what one picture asks of the driver of an NVIDIA GPU, without a GPU: builds the stand-in for the driver and the example
# `launches`, runs it, prints a table, and fails if a count is past deploy/cuda/budget.json. Then runs the tests of our
# kernels on the stand-in, which computes their values. driver/README.md says what that proves.
#
#   deploy/cuda/count.sh                            # the 2B model at 1M pixels, one picture
#   deploy/cuda/count.sh --size 125m --pictures 4   # options of the example
set -eu
cd "$(dirname "$0")/../.."
. deploy/cuda/toolkit.sh

# shellcheck disable=SC2086  # several words
cargo rustc --release --locked --package echogen-models --example launches --features cuda -- $driver_arguments
# shellcheck disable=SC2086  # several words
cargo rustc --release --locked --package echogen-models --test gpu_kernels --features cuda -- $driver_arguments
example="$target/release/examples/launches"
tests="$(ls -t "$target"/release/deps/gpu_kernels-* | grep -v '\.d$' | head -n 1)"
. deploy/cuda/driver/build.sh

# The program is built for one capability. Our kernels are for all of these, and nvcc says what one of them lacks.
for capability in 80 86 89 90; do
    for kernels in rows maps draws flash; do
        "$NVCC" --ptx --std=c++17 -O3 --gpu-architecture="compute_$capability" --output-file "$driver/$kernels.ptx" \
            "crates/models/src/layers/cuda/$kernels.cu"
    done
done

counts="$driver/counts"
rm -f "$counts"
if [ "$#" = 0 ]; then set -- --size 2b; fi
ECHOGEN_DRIVER_COUNTS="$counts" LD_LIBRARY_PATH="$driver" "$example" --device cuda --counts "$counts" \
    --budget deploy/cuda/budget.json "$@"
ECHOGEN_DRIVER_KERNELS="$driver/libkernels.so" LD_LIBRARY_PATH="$driver" "$tests"
