//! EchoGen testkit.
