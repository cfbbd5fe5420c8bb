//! Compiles the kernels for NVIDIA GPUs, `src/layers/cuda/rows.cu`, to PTX. Only with the feature `cuda`; else it does nothing.
//!
//! Led by the variables that lead candle's build too: `NVCC`, and `CUDA_COMPUTE_CAP`, the oldest compute capability that is
//! supported.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/layers/cuda/rows.cu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let compiler = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("rows.ptx");
    let mut command = Command::new(&compiler);
    command.args(["--ptx", "--std=c++17", "-O3", &format!("--gpu-architecture=compute_{capability}")]);
    match command.arg("--output-file").arg(&out).arg(SOURCE).status() {
        Ok(status) if status.success() => (),
        Ok(status) => panic!("{} could not compile {SOURCE}: {status}", compiler.display()),
        Err(error) => panic!("{} could not be started: {error}", compiler.display()),
    }
}
