//! EchoGen adapters.
