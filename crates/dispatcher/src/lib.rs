//! EchoGen dispatcher.
