//! Compiles the kernels for NVIDIA GPUs in `src/layers/cuda` to PTX. Only with the feature `cuda`; else it does nothing.
//!
//! Led by the variables that lead candle's build too: `NVCC`, and `CUDA_COMPUTE_CAP`, the oldest compute capability that is
//! supported.

use std::{env, path::PathBuf, process::Command};

const FOLDER: &str = "src/layers/cuda";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    for kernels in ["rows", "maps", "draws", "flash"] {
        compile(kernels);
    }
}

fn compile(kernels: &str) {
    let compiler = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let source = format!("{FOLDER}/{kernels}.cu");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(format!("{kernels}.ptx"));
    let mut command = Command::new(&compiler);
    command.args(["--ptx", "--std=c++17", "-O3", &format!("--gpu-architecture=compute_{capability}")]);
    match command.arg("--output-file").arg(&out).arg(&source).status() {
        Ok(status) if status.success() => (),
        Ok(status) => panic!("{} could not compile {source}: {status}", compiler.display()),
        Err(error) => panic!("{} could not be started: {error}", compiler.display()),
    }
}
