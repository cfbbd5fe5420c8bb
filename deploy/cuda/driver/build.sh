# shellcheck shell=sh
# Sourced by ../count.sh: builds the stand-in for the driver for the programs $example and $tests into $driver, a folder for
# LD_LIBRARY_PATH. Functions that these programs name and the stand-in lacks end the program by their name.
driver="$target/driver"
rm -rf "$driver"
mkdir -p "$driver"

# What of CUDA the programs name, without versions.
nm --dynamic --undefined-only "$example" "$tests" | sed -n 's/^ *U \(\(cu\|nvrtc\|__cuda\)[A-Za-z0-9_]*\).*/\1/p' | sort -u \
    > "$driver/named"
for source in counts driver libraries; do
    cc -std=c11 -Wall -Wextra -Werror -O2 -fPIC -c "deploy/cuda/driver/$source.c" -o "$driver/$source.o"
done
nm --defined-only --extern-only "$driver"/*.o | sed -n 's/.* T //p' | sort -u > "$driver/defined"
{
    echo '#include "counts.h"'
    comm -23 "$driver/named" "$driver/defined" | sed 's/.*/void &(void) { refuse("& is missing"); }/'
} > "$driver/missing.c"
cc -std=c11 -O2 -fPIC -Wno-builtin-declaration-mismatch -I deploy/cuda/driver -c "$driver/missing.c" -o "$driver/missing.o"
cc -shared -Wl,-soname,libcuda.so.1 -o "$driver/libcuda.so.1" "$driver"/*.o -lpthread -ldl

# The other libraries are empty: all functions are in the first. Each has the version that the program asks it for.
for library in $(readelf --dynamic "$example" | sed -n 's/.*(NEEDED).*\[\(lib\(cublas\|cublasLt\|curand\|cudart\|nvrtc\)\.so.*\)\]/\1/p'); do
    echo "$library { };" > "$driver/version"
    echo | cc -shared -fPIC -x c - -Wl,-soname,"$library" -Wl,--version-script="$driver/version" -o "$driver/$library"
done

c++ -std=c++17 -O2 -fno-strict-aliasing -shared -fPIC -I "$toolkit/include" -I crates/models/src/layers/cuda -o "$driver/libkernels.so" \
    deploy/cuda/driver/host_kernels.cpp
