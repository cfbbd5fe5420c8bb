//! EchoGen worker.
