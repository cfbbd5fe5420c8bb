//! EchoGen segmenter.
