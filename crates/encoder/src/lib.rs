//! EchoGen encoder.
