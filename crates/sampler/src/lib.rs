//! EchoGen sampler.
