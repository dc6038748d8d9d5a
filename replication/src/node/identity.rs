//! Who this node is: the file that ties a data directory to a cluster, a node and its replicas.
//!
//! It is written before anything else when a directory is made, and decides what a restart opens; once more when the
//! cluster is made. From then on a group without any past is one that has lost it, and not a new one. Written whole or
//! not at all: a temporary file, synced, renamed.
//!
//! Replica ids come from a counter kept here and are never given out twice: a replica that lost its disk must not come
//! back under its old vote. (Once there are several nodes, the catalog gives them out and this file notes them.)
//!
//! ```json
//! {"version":1, "node":1, "made":true, "cluster":{"id":"…","hash_seed":7,"shards":16,"created_at":0},
//!  "replicas":[{"group":0,"replica":1}, {"group":1,"replica":2}], "next_replica":3}
//! ```

use std::io;
use std::path::Path;

use larder_storage::disk::Disk;
use larder_types::hash::ShardCount;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::catalog::ClusterSettings;

const VERSION: u32 = 1;
const FILE: &str = "node.json";
const UNFINISHED: &str = "node.json.tmp";

/// A node's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    version: u32,
    /// The node's number in its cluster.
    pub(crate) node: NodeId,
    /// Whether the cluster was made, so that every group has a past.
    pub(crate) made: bool,
    /// The cluster it belongs to.
    pub(crate) cluster: ClusterSettings,
    /// Its replicas, one for each of their groups.
    pub(crate) replicas: Vec<Replica>,
    /// The next replica id that was never used.
    next_replica: u64,
}

/// A replica that the node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replica {
    /// Of which group.
    pub(crate) group: GroupId,
    /// Its id.
    pub(crate) replica: ReplicaId,
}

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("the identity file {FILE} is damaged ({0}): restore it from a copy of the data directory")]
    Damaged(String),
    /// No cluster can be made like this.
    #[error("cannot make a cluster of {0} shards: choose a power of two from 1 to 1024")]
    Shards(u16),
    /// There is none, but the directory is not new.
    #[error("there is no identity file {FILE}, but `{0}` holds files: restore the file or choose an empty directory")]
    Missing(&'static str),
    /// A newer version wrote it.
    #[error("a newer version of Larder made this data directory (its format is {0}): run that version")]
    Newer(u32),
}

impl Identity {
    /// The identity of the first node of a new cluster, which holds a replica of every group.
    ///
    /// # Errors
    /// When the number of shards is none that a cluster can have.
    pub(crate) fn first(cluster: ClusterSettings) -> Result<Self, IdentityError> {
        if ShardCount::new(cluster.shards).is_none() {
            return Err(IdentityError::Shards(cluster.shards));
        }
        let groups = 0..=cluster.shards;
        let replicas: Vec<Replica> =
            groups.map(|group| Replica { group: GroupId(group), replica: ReplicaId(u64::from(group) + 1) }).collect();
        let next_replica = u64::from(cluster.shards) + 2;
        Ok(Self { version: VERSION, node: NodeId(1), made: false, cluster, replicas, next_replica })
    }

    /// Reads the identity of a data directory; `None` if it has none.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, IdentityError> {
        let bytes = match disk.read(Path::new(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error: serde_json::Error| IdentityError::Damaged(error.to_string());
        // The version first: what else a newer one has written need not make sense.
        match serde_json::from_slice::<Version>(&bytes).map_err(damaged)?.version {
            VERSION => {}
            newer if newer > VERSION => return Err(IdentityError::Newer(newer)),
            odd => return Err(IdentityError::Damaged(format!("version {odd}"))),
        }
        let identity: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        identity.check().map_err(|what| IdentityError::Damaged(what.to_owned()))?;
        Ok(Some(identity))
    }

    /// Writes the identity; on return it is on disk.
    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        match disk.remove(Path::new(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = disk.create(Path::new(UNFINISHED))?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        disk.rename(Path::new(UNFINISHED), Path::new(FILE))?;
        disk.sync_dir(Path::new(""))?;
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        if ShardCount::new(self.cluster.shards).is_none() {
            return Err("the number of shards is not a power of two from 1 to 1024");
        }
        if !self.replicas.iter().map(|replica| replica.group.0).eq(0..=self.cluster.shards) {
            return Err("it does not list one replica for each group");
        }
        if self.replicas.iter().any(|replica| replica.replica.0 >= self.next_replica) {
            return Err("a replica has an id that was not given out");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use larder_storage::disk::FakeDisk;

    use super::*;

    fn settings() -> ClusterSettings {
        ClusterSettings { id: "c".repeat(32), hash_seed: u64::MAX, shards: 2, created_at: 5 }
    }

    fn first() -> Identity {
        Identity::first(settings()).unwrap()
    }

    #[test]
    fn no_cluster_has_an_odd_number_of_shards() {
        let odd = ClusterSettings { shards: 3, ..settings() };
        assert!(matches!(Identity::first(odd), Err(IdentityError::Shards(3))));
    }

    fn empty() -> FakeDisk {
        let disk = FakeDisk::new();
        disk.create_dir(Path::new("")).unwrap();
        disk
    }

    fn write(disk: &FakeDisk, text: &str) {
        let _ = disk.remove(Path::new(FILE));
        disk.create(Path::new(FILE)).unwrap().write_at(0, text.as_bytes()).unwrap();
    }

    #[test]
    fn an_identity_survives_a_power_cut() {
        let disk = empty();
        assert!(Identity::load(&disk).unwrap().is_none());
        let identity = first();
        identity.save(&disk).unwrap();
        for seed in 0..16 {
            assert_eq!(Identity::load(&disk.power_cut(seed)).unwrap(), Some(identity.clone()));
        }
    }

    #[test]
    fn a_power_cut_while_saving_leaves_all_or_nothing() {
        for operations in 0..8 {
            let disk = empty();
            disk.crash_after(operations);
            let _ = first().save(&disk);
            for seed in 0..16 {
                let after = disk.power_cut(seed);
                let found = Identity::load(&after).unwrap();
                assert!(found.is_none_or(|identity| identity == first()));
                first().save(&after).unwrap();
            }
        }
    }

    #[test]
    fn every_group_has_a_replica_of_its_own() {
        let identity = first();
        let replicas: Vec<_> = identity.replicas.iter().map(|r| (r.group.0, r.replica.0)).collect();
        assert_eq!(replicas, [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(identity.next_replica, 4);
    }

    #[test]
    fn damage_and_newer_versions_are_told_apart() {
        let disk = empty();
        write(&disk, "{\"version\":1");
        assert!(matches!(Identity::load(&disk), Err(IdentityError::Damaged(_))));
        write(&disk, "{\"version\":2,\"zones\":[]}");
        assert!(matches!(Identity::load(&disk), Err(IdentityError::Newer(2))));
        let good = serde_json::to_string(&first()).unwrap();
        write(&disk, &good);
        assert!(Identity::load(&disk).unwrap().is_some());
        for (from, to) in [
            ("\"shards\":2", "\"shards\":3"),
            ("\"group\":2", "\"group\":1"),
            ("\"next_replica\":4", "\"next_replica\":3"),
        ] {
            assert!(good.contains(from));
            write(&disk, &good.replace(from, to));
            assert!(matches!(Identity::load(&disk), Err(IdentityError::Damaged(_))), "{to}");
        }
    }
}
