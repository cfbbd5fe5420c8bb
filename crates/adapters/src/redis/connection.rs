//! One connection to the server, shared by all calls that use it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::redis::{
    Client, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

/// A connection that is opened at its first use, and again after it was lost.
pub(super) struct SharedConnection {
    client: Client,
    config: ConnectionManagerConfig,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    manager: Option<ConnectionManager>,
    /// Counts connections, so that of many calls that fail together only the first discards the one they shared.
    number: u64,
}

impl SharedConnection {
    /// Nothing is connected yet. Without `response_timeout` calls wait as long as their caller does.
    pub(super) fn new(client: Client, connect_timeout: Duration, response_timeout: Option<Duration>) -> Self {
        // No retries here: the cache makes its own pause between attempts.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(response_timeout)
            .set_number_of_retries(0);
        Self { client, config, slot: Mutex::default() }
    }

    /// Makes a call, and makes it again if the connection was closed since the last one. After any other loss the next call
    /// connects again.
    pub(super) async fn call<T, F>(&self, run: impl Fn(ConnectionManager) -> F) -> Result<T, RedisError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let (manager, number) = self.get()?;
        let error = match run(manager).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if is_lost(&error) {
            self.discard(number);
        }
        if !is_closed(&error) || error.is_connection_refusal() {
            return Err(error);
        }
        let (manager, number) = self.get()?;
        let again = run(manager).await;
        if again.as_ref().is_err_and(is_lost) {
            self.discard(number);
        }
        again
    }

    /// Makes the next call connect again. Calls in flight keep their connection.
    pub(super) fn renew(&self) {
        self.lock().manager = None;
    }

    /// The present connection and its number; a new one if there is none. Connecting itself is part of the first call.
    fn get(&self) -> Result<(ConnectionManager, u64), RedisError> {
        let mut slot = self.lock();
        if let Some(manager) = &slot.manager {
            return Ok((manager.clone(), slot.number));
        }
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())?;
        slot.manager = Some(manager.clone());
        slot.number += 1;
        Ok((manager, slot.number))
    }

    fn discard(&self, number: u64) {
        let mut slot = self.lock();
        if slot.number == number {
            slot.manager = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // Each change under this lock is complete before anything can panic.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection is gone, as after a restart of the server, and not merely slow.
fn is_closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_timeout()
}

/// The connection is of no more use, or the server does not answer on it.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || is_closed(error)
}
