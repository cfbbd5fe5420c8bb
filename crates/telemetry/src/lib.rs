//! EchoGen telemetry.
