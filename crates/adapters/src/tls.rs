//! The one TLS stack.

/// Makes ring the process's provider of cryptography, unless the program has chosen one already.
pub(crate) fn install_ring() {
    // An error says that there is one already; that one is then used.
    rustls::crypto::ring::default_provider().install_default().ok();
}
