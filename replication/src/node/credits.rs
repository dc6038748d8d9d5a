//! Credits: bytes of proposals that may be in flight. Whoever proposes takes some and holds them until the answer is there;
//! whoever gets none in time is refused, so nothing queues without bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ProposeError;

/// Bytes that one credit stands for. Every command costs at least one, for what surrounds its bytes.
const CREDIT_BYTES: usize = 1024;

/// A number of credits. Closed when the node stops.
pub(crate) struct Credits {
    free: Arc<Semaphore>,
    all: u32,
}

impl Credits {
    /// Credits for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let all = u32::try_from(bytes.div_ceil(CREDIT_BYTES)).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Bytes in flight.
    pub(crate) fn inflight_bytes(&self) -> usize {
        (self.all as usize - self.free.available_permits()) * CREDIT_BYTES
    }

    /// Gives no more.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    /// Takes credits for commands, and waits so long for them at most.
    ///
    /// # Errors
    /// `Overloaded` if there are none in time, `Stopping` if there will be none.
    pub(crate) async fn take(&self, commands: &[Bytes], wait: Duration) -> Result<OwnedSemaphorePermit, ProposeError> {
        let cost: usize = commands.iter().map(|command| command.len() / CREDIT_BYTES + 1).sum();
        // What is larger than all credits together may pass when nothing else does.
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(self.all);
        let credit = Arc::clone(&self.free).acquire_many_owned(cost);
        match tokio::time::timeout(wait, credit).await {
            Ok(Ok(credit)) => Ok(credit),
            Ok(Err(_)) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_flight_is_bounded_and_what_is_large_passes_alone() {
        let credits = Credits::new(4096);
        let small = [Bytes::from(vec![0; 1000]), Bytes::from(vec![0; 1025])];
        let held = credits.take(&small, Duration::ZERO).await.unwrap();
        assert_eq!(credits.inflight_bytes(), 3 * 1024);
        assert_eq!(credits.take(&small, Duration::ZERO).await.unwrap_err(), ProposeError::Overloaded);
        let large = [Bytes::from(vec![0; 1 << 20])];
        assert_eq!(credits.take(&large, Duration::ZERO).await.unwrap_err(), ProposeError::Overloaded);
        drop(held);
        let held = credits.take(&large, Duration::ZERO).await.unwrap();
        assert_eq!(credits.inflight_bytes(), 4096);
        drop(held);
        credits.close();
        assert_eq!(credits.take(&small, Duration::ZERO).await.unwrap_err(), ProposeError::Stopping);
    }
}
