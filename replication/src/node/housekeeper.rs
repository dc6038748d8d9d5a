//! Opens and closes replicas as the catalog's map places them.
//!
//! Invariants:
//! - What is on disk is named in the identity file before it is there, and until it is gone: a crash at any point leaves
//!   either a replica that is opened again or one that is wiped again.
//! - A replica is wiped only when a map that is newer than it does not place it here any more. Ids of replicas ascend, so
//!   a map knows a replica's id, or is older than the replica.
//! - A replica that was wiped is never opened again, also not for an old map, which a node sees when it has just started.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_types::ids::{GroupId, ReplicaId};
use tokio::sync::oneshot;

use super::error::StartError;
use super::identity::{Held, HeldState, Identity, IdentityError};
use super::replica::Origin;
use super::replicas::Replicas;
use super::site::Site;
use crate::blocking;
use crate::catalog::Catalog;
use crate::raft::transfer::Receiving;

/// How often the map is looked at: a pointer is compared.
const PERIOD: Duration = Duration::from_millis(100);

/// Follows the map.
pub(crate) struct Housekeeper {
    pub(crate) site: Arc<Site>,
    pub(crate) identity: Identity,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) catalog: Arc<ArcSwap<Catalog>>,
    /// Snapshots on their way to replicas here.
    pub(crate) receiving: Arc<Receiving>,
}

impl Housekeeper {
    /// Goes on until the node stops or something fails that it must not live on after.
    pub(crate) async fn run(mut self) {
        let mut seen = None;
        loop {
            let map = Arc::clone(&self.catalog.load().map);
            let is_news = seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &map));
            if is_news || self.identity.replicas.iter().any(|held| held.state != HeldState::Kept) {
                if let Err(error) = self.tidy().await {
                    return self.site.failure().fail(format!("replicas cannot be opened or closed: {error}"));
                }
                seen = Some(map);
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Brings what is here in line with the map.
    async fn tidy(&mut self) -> Result<(), StartError> {
        self.note_votes()?;
        let map = Arc::clone(&self.catalog.load().map);
        if !map.nodes.is_empty() {
            let me = self.site.node;
            let placed = |held: &Held| map.group(held.group).and_then(|group| group.on(me)).map(|place| place.replica);
            let superfluous = |held: &&Held| {
                held.group != GroupId::CATALOG
                    && held.state != HeldState::Gone
                    && map.has_given(held.replica)
                    && placed(held) != Some(held.replica)
            };
            let gone: Vec<_> = self.identity.replicas.iter().filter(superfluous).copied().collect();
            for held in gone {
                tracing::info!(group = %held.group, replica = %held.replica, "a replica has left this node");
                self.identity.hold(Held { state: HeldState::Gone, ..held });
                self.save()?;
            }
            self.wipe().await?;
            let is_new = |group, replica| self.identity.held(group).is_none() && self.identity.may_open(group, replica);
            let new: Vec<_> = map.replicas_of(me).filter(|(group, place)| is_new(*group, place.replica)).collect();
            for (group, place) in new {
                self.take(group, place.replica).await?;
            }
        }
        Ok(())
    }

    /// Notes which new replicas have a past by now.
    fn note_votes(&mut self) -> Result<(), StartError> {
        let has_past =
            |held: &&Held| held.state == HeldState::New && self.site.log.group(held.group).state().vote.is_some();
        let kept: Vec<_> = self.identity.replicas.iter().filter(has_past).copied().collect();
        if kept.is_empty() {
            return Ok(());
        }
        kept.into_iter().for_each(|held| self.identity.hold(Held { state: HeldState::Kept, ..held }));
        self.save()
    }

    /// Opens a replica that was placed here.
    async fn take(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), StartError> {
        tracing::info!(%group, %replica, "a replica was placed on this node");
        self.identity.hold(Held { group, replica, state: HeldState::New });
        self.save()?;
        let opened = self.site.open(group, replica, Origin::Joining, self.site.shard(group)).await?;
        self.replicas.add(Arc::clone(&opened));
        recover(&self.site, opened);
        Ok(())
    }

    /// Wipes what is gone.
    pub(crate) async fn wipe(&mut self) -> Result<(), StartError> {
        let gone = self.identity.replicas.iter().filter(|held| held.state == HeldState::Gone);
        for group in gone.map(|held| held.group).collect::<Vec<_>>() {
            let running = self.replicas.remove(group);
            if let Some(replica) = &running {
                replica.stop().await;
            }
            self.receiving.forget(group).await;
            let snapshots = self.site.snapshots.clone();
            let removed = blocking::spawn(move || {
                // What is still being written must not appear afterwards.
                running.iter().for_each(|replica| replica.shelf.close());
                snapshots.remove(group)
            });
            let removed = removed.await;
            removed.map_err(|error| StartError::Damaged(error.to_string()))?.map_err(|error| self.failed(error))?;
            let (done, forgotten) = oneshot::channel();
            self.site.log.group(group).forget(Box::new(move |result| drop(done.send(result))));
            match forgotten.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(_) => return Err(StartError::Damaged("the log has ended".to_owned())),
            }
            self.identity.let_go(group);
            self.save()?;
        }
        Ok(())
    }

    /// Gives the catalog the replica that was given for one that is gone.
    pub(crate) fn take_catalog(&mut self) -> Result<(), StartError> {
        let Some(replica) = self.identity.catalog_next.take() else { return Ok(()) };
        self.identity.hold(Held { group: GroupId::CATALOG, replica, state: HeldState::New });
        self.save()
    }

    fn save(&self) -> Result<(), StartError> {
        self.identity.save(&*self.site.disk).map_err(|error| match error {
            IdentityError::Io(error) => self.failed(error),
            error => StartError::Damaged(error.to_string()),
        })
    }

    fn failed(&self, error: impl std::fmt::Display) -> StartError {
        StartError::Damaged(error.to_string())
    }
}

/// Lets a replica serve when it has recovered.
pub(crate) fn recover(site: &Arc<Site>, replica: Arc<super::replica::Replica>) {
    site.failure().watch("recovery", async move {
        // It fails only if the replica ends before.
        let _ = replica.recover().await;
    });
}
