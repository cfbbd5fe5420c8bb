//! Work that keeps a core busy or waits for a file, away from the async threads.

use crate::Fault;

/// Runs `work` on a thread that may block. It runs to its end also when the caller is dropped meanwhile.
///
/// # Errors
///
/// The work panicked, a fault of ours and permanent; or the process ends before it began, which is transient.
pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        let message = error.to_string();
        let fault = if error.is_panic() { Fault::internal(message) } else { Fault::unavailable(message) };
        fault.because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_comes_back_and_a_panic_is_an_error() {
        assert_eq!(spawn_blocking(|| 7).await.unwrap(), 7);
        let error = spawn_blocking(|| panic!("as told")).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("as told"), "{error}");
    }
}
