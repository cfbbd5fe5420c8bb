# shellcheck shell=sh
# Sourced, with the repository's root as working directory: fetches the CUDA toolkit and sets the environment in which cargo
# builds for NVIDIA GPUs on a machine that has neither a GPU nor CUDA. Sets `target` and `toolkit`.
#
# Needs Python 3 with venv, a C++ compiler and 4 GB of disk. The toolkit (1.2 GB) goes to target/cuda/toolkit and is kept.
target="${CARGO_TARGET_DIR:-$PWD/target}/cuda"
toolkit="$target/toolkit/nvidia/cu13"
wanted="$target/toolkit/requirements.txt"

if ! cmp -s deploy/cuda/requirements.txt "$wanted"; then
    rm -rf "$target/toolkit"
    mkdir -p "$target/toolkit"
    python3 -m venv "$target/python"
    "$target/python/bin/pip" install --quiet --no-deps --target "$target/toolkit" -r deploy/cuda/requirements.txt
    # The linker asks for names without versions.
    for library in "$toolkit"/lib/lib*.so.*; do
        name="$(basename "$library")"
        ln -sf "$name" "$toolkit/lib/${name%%.so.*}.so"
    done
    cp deploy/cuda/requirements.txt "$wanted"
fi

# The driver's library comes with the driver. An empty one of that name takes its place while linking, and its functions
# are looked up where the program starts.
echo | cc -shared -fPIC -x c - -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/libcuda.so"
link="-L native=$toolkit/lib -C link-arg=-Wl,--no-as-needed -C link-arg=-Wl,--unresolved-symbols=ignore-all"

export CUDA_HOME="$toolkit" NVCC="$toolkit/bin/nvcc" PATH="$toolkit/bin:$PATH"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_TARGET_DIR="$target" RUSTFLAGS="${RUSTFLAGS:-} $link"
# The empty library last, and named as needed: nothing in it makes the linker think so.
driver_arguments="-C link-arg=-Wl,--no-as-needed -C link-arg=-lcuda"
