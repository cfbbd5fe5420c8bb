#!/bin/sh
# Builds `echogen` for NVIDIA GPUs on a machine that has neither a GPU nor CUDA: all kernels are compiled, the program is
# linked, nothing is run. It starts where there is a driver.
#
#   deploy/cuda/build.sh                      # target/cuda/release/echogen, for compute capability 80 and above
#   CUDA_COMPUTE_CAP=90 deploy/cuda/build.sh  # 80 A100, 86 A10, 89 L4 and L40S, 90 H100 and H200, 100 B200
#
# Needs Python 3 with venv, a C++ compiler and 4 GB of disk. The toolkit (1.2 GB) goes to target/cuda/toolkit and is kept.
set -eu
cd "$(dirname "$0")/../.."
. deploy/cuda/toolkit.sh

# shellcheck disable=SC2086  # several words
cargo rustc --release --locked --package echogen-cli --bin echogen --features cuda -- $driver_arguments
for library in libcuda.so.1 libcublas.so libcurand.so; do
    readelf --dynamic "$target/release/echogen" | grep -F "$library"
done
echo "$target/release/echogen"
