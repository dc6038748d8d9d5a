//! Who this node is: the file that ties a data directory to a cluster, a node and its replicas.
//!
//! It is written before anything else when a directory is made, and decides what a restart opens; again when the cluster
//! is made, and whenever a replica comes or goes. Written whole or not at all: a temporary file, synced, renamed.
//!
//! A replica that is *new* may be without any past, since a leader is to fill it; from the first vote that it saved on,
//! one without a past has lost it. A replica that is *gone* is being wiped, and its past means nothing any more.
//!
//! ```json
//! {"version":2, "incarnation":"…", "node":1, "made":true, "cluster":{"id":"…","hash_seed":7,"shards":16,"created_at":0},
//!  "replicas":[{"group":0,"replica":1,"state":"kept"}, {"group":1,"replica":21,"state":"new"}]}
//! ```
//! Version 1, of nodes that were alone, had neither `incarnation` nor `state`, and a number `next_replica`.
//!
//! The incarnation is chance, and stands in a file of its own before the node has a cluster, so that a node that asks
//! twice to be taken in is known to be the same.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use larder_storage::disk::Disk;
use larder_types::hash::ShardCount;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::catalog::ClusterSettings;

const VERSION: u32 = 2;
const FILE: &str = "node.json";
const UNFINISHED: &str = "node.json.tmp";
const INCARNATION: &str = "incarnation";
const INCARNATION_UNFINISHED: &str = "incarnation.tmp";

/// A node's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    version: u32,
    /// 32 hexadecimal digits that no other data directory has.
    pub(crate) incarnation: String,
    /// The node's number in its cluster.
    pub(crate) node: NodeId,
    /// Whether the cluster was made, so that every group has a past.
    pub(crate) made: bool,
    /// The cluster it belongs to.
    pub(crate) cluster: ClusterSettings,
    /// Its replicas in order of group.
    pub(crate) replicas: Vec<Held>,
    /// The replica of the catalog that takes the place of one that is gone, when that is wiped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) catalog_next: Option<ReplicaId>,
    /// The last replica of each group that was wiped here. A node that starts may see an old map that still places it
    /// here; opened again, it would vote as if it had never promised or held anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    wiped: BTreeMap<GroupId, ReplicaId>,
}

/// A replica that the node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// Of which group.
    pub(crate) group: GroupId,
    /// Its id.
    pub(crate) replica: ReplicaId,
    /// What is to be found of it on disk.
    pub(crate) state: HeldState,
}

/// What is to be found of a replica on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeldState {
    /// Perhaps nothing yet.
    New,
    /// Its past.
    Kept,
    /// Nothing that counts.
    Gone,
}

/// The form of version 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alone {
    #[serde(rename = "version")]
    _version: u32,
    node: NodeId,
    made: bool,
    cluster: ClusterSettings,
    replicas: Vec<AloneReplica>,
    next_replica: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AloneReplica {
    group: GroupId,
    replica: ReplicaId,
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
    pub(crate) fn first(cluster: ClusterSettings, incarnation: String) -> Result<Self, IdentityError> {
        if ShardCount::new(cluster.shards).is_none() {
            return Err(IdentityError::Shards(cluster.shards));
        }
        let replicas = (0..=cluster.shards).map(|group| Held {
            group: GroupId(group),
            replica: ReplicaId(u64::from(group) + 1),
            state: HeldState::New,
        });
        let replicas = replicas.collect();
        Ok(Self {
            version: VERSION,
            incarnation,
            node: NodeId(1),
            made: false,
            cluster,
            replicas,
            catalog_next: None,
            wiped: BTreeMap::new(),
        })
    }

    /// The identity of a node that was taken into a cluster, with its replica of the catalog.
    pub(crate) fn joined(cluster: ClusterSettings, incarnation: String, node: NodeId, catalog: ReplicaId) -> Self {
        let replicas = vec![Held { group: GroupId::CATALOG, replica: catalog, state: HeldState::New }];
        Self {
            version: VERSION,
            incarnation,
            node,
            made: true,
            cluster,
            replicas,
            catalog_next: None,
            wiped: BTreeMap::new(),
        }
    }

    /// Reads the identity of a data directory; `None` if it has none. `incarnation` is for one that has none yet.
    pub(crate) fn load(disk: &dyn Disk, incarnation: &str) -> Result<Option<Self>, IdentityError> {
        let bytes = match disk.read(Path::new(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // The version first: what else a newer one has written need not make sense.
        let identity = match parse::<Version>(&bytes)?.version {
            VERSION => parse::<Self>(&bytes)?,
            1 => Self::of_alone(parse::<Alone>(&bytes)?, incarnation)?,
            newer if newer > VERSION => return Err(IdentityError::Newer(newer)),
            odd => return Err(IdentityError::Damaged(format!("version {odd}"))),
        };
        identity.check().map_err(|what| IdentityError::Damaged(what.to_owned()))?;
        Ok(Some(identity))
    }

    fn of_alone(alone: Alone, incarnation: &str) -> Result<Self, IdentityError> {
        let damaged = |what: &str| Err(IdentityError::Damaged(what.to_owned()));
        if !alone.replicas.iter().map(|replica| replica.group.0).eq(0..=alone.cluster.shards) {
            return damaged("it does not list one replica for each group");
        }
        if alone.replicas.iter().any(|replica| replica.replica.0 >= alone.next_replica) {
            return damaged("a replica has an id that was not given out");
        }
        let state = if alone.made { HeldState::Kept } else { HeldState::New };
        let held = |replica: AloneReplica| Held { group: replica.group, replica: replica.replica, state };
        Ok(Self {
            version: VERSION,
            incarnation: incarnation.to_owned(),
            node: alone.node,
            made: alone.made,
            cluster: alone.cluster,
            replicas: alone.replicas.into_iter().map(held).collect(),
            catalog_next: None,
            wiped: BTreeMap::new(),
        })
    }

    /// Writes the identity; on return it is on disk.
    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        Ok(write(disk, Path::new(UNFINISHED), Path::new(FILE), &bytes)?)
    }

    /// What the node holds of a group.
    pub(crate) fn held(&self, group: GroupId) -> Option<Held> {
        self.replicas.iter().find(|held| held.group == group).copied()
    }

    /// Notes what the node holds of a group.
    pub(crate) fn hold(&mut self, held: Held) {
        self.replicas.retain(|other| other.group != held.group);
        let at = self.replicas.partition_point(|other| other.group < held.group);
        self.replicas.insert(at, held);
    }

    /// Whether a replica may be opened here: it was not before, as far as the node has wiped any of its group.
    pub(crate) fn may_open(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.wiped.get(&group).is_none_or(|wiped| *wiped < replica)
    }

    /// Notes that the node holds nothing of a group, and never will again of the replica that it held.
    pub(crate) fn let_go(&mut self, group: GroupId) {
        if let Some(held) = self.held(group) {
            self.wiped.insert(group, held.replica);
        }
        self.replicas.retain(|held| held.group != group);
    }

    fn check(&self) -> Result<(), &'static str> {
        if ShardCount::new(self.cluster.shards).is_none() {
            return Err("the number of shards is not a power of two from 1 to 1024");
        }
        if self.incarnation.len() != 32 || !self.incarnation.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the incarnation is not 32 hexadecimal digits");
        }
        if self.replicas.windows(2).any(|pair| pair[0].group >= pair[1].group) {
            return Err("its replicas are not in order of group");
        }
        if self.replicas.last().is_some_and(|last| last.group.0 > self.cluster.shards) {
            return Err("it lists a replica of a group that the cluster does not have");
        }
        Ok(())
    }
}

/// The incarnation of a data directory. A directory that has none gets the one that is offered.
///
/// # Errors
/// When the disk fails.
pub(crate) fn incarnation(disk: &dyn Disk, offered: impl FnOnce() -> String) -> Result<String, IdentityError> {
    match disk.read(Path::new(INCARNATION)) {
        Ok(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(text.to_owned()),
            _ => Err(IdentityError::Damaged(format!("its file `{INCARNATION}` is not 32 hexadecimal digits"))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = offered();
            write(disk, Path::new(INCARNATION_UNFINISHED), Path::new(INCARNATION), made.as_bytes())?;
            Ok(made)
        }
        Err(error) => Err(error.into()),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, IdentityError> {
    serde_json::from_slice(bytes).map_err(|error| IdentityError::Damaged(error.to_string()))
}

fn write(disk: &dyn Disk, unfinished: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match disk.remove(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(unfinished)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    disk.rename(unfinished, path)?;
    disk.sync_dir(Path::new(""))
}

#[cfg(test)]
mod tests {
    use larder_storage::disk::FakeDisk;

    use super::*;

    const CHANCE: &str = "0123456789abcdef0123456789abcdef";

    fn settings() -> ClusterSettings {
        ClusterSettings { id: "c".repeat(32), hash_seed: u64::MAX, shards: 2, created_at: 5 }
    }

    fn first() -> Identity {
        Identity::first(settings(), CHANCE.to_owned()).unwrap()
    }

    fn load(disk: &FakeDisk) -> Result<Option<Identity>, IdentityError> {
        Identity::load(disk, CHANCE)
    }

    #[test]
    fn no_cluster_has_an_odd_number_of_shards() {
        let odd = ClusterSettings { shards: 3, ..settings() };
        assert!(matches!(Identity::first(odd, CHANCE.to_owned()), Err(IdentityError::Shards(3))));
    }

    fn empty() -> FakeDisk {
        let disk = FakeDisk::new();
        disk.create_dir(Path::new("")).unwrap();
        disk
    }

    fn put(disk: &FakeDisk, text: &str) {
        let _ = disk.remove(Path::new(FILE));
        disk.create(Path::new(FILE)).unwrap().write_at(0, text.as_bytes()).unwrap();
    }

    #[test]
    fn an_identity_survives_a_power_cut() {
        let disk = empty();
        assert!(load(&disk).unwrap().is_none());
        let identity = first();
        identity.save(&disk).unwrap();
        for seed in 0..16 {
            assert_eq!(load(&disk.power_cut(seed)).unwrap(), Some(identity.clone()));
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
                let found = load(&after).unwrap();
                assert!(found.is_none_or(|identity| identity == first()));
                first().save(&after).unwrap();
            }
        }
    }

    #[test]
    fn a_directory_keeps_its_incarnation() {
        let disk = empty();
        assert_eq!(incarnation(&disk, || CHANCE.to_owned()).unwrap(), CHANCE);
        let again = incarnation(&disk.power_cut(1), || unreachable!("it has one"));
        assert_eq!(again.unwrap(), CHANCE);
        let damaged = empty();
        damaged.create(Path::new(INCARNATION)).unwrap().write_at(0, b"short").unwrap();
        assert!(matches!(incarnation(&damaged, || CHANCE.to_owned()), Err(IdentityError::Damaged(_))));
    }

    #[test]
    fn every_group_of_a_first_node_has_a_replica_of_its_own() {
        let replicas: Vec<_> = first().replicas.iter().map(|r| (r.group.0, r.replica.0)).collect();
        assert_eq!(replicas, [(0, 1), (1, 2), (2, 3)]);
    }

    #[test]
    fn replicas_come_and_go_in_order_of_group() {
        let mut identity = Identity::joined(settings(), CHANCE.to_owned(), NodeId(4), ReplicaId(9));
        let held = |group, replica, state| Held { group: GroupId(group), replica: ReplicaId(replica), state };
        identity.hold(held(2, 11, HeldState::New));
        identity.hold(held(1, 12, HeldState::New));
        identity.hold(held(2, 11, HeldState::Kept));
        assert_eq!(identity.held(GroupId(2)).unwrap().state, HeldState::Kept);
        identity.let_go(GroupId(1));
        let groups: Vec<_> = identity.replicas.iter().map(|held| held.group.0).collect();
        assert_eq!(groups, [0, 2]);
        let disk = empty();
        identity.save(&disk).unwrap();
        assert_eq!(load(&disk).unwrap(), Some(identity));
    }

    #[test]
    fn a_replica_that_was_wiped_is_never_opened_again() {
        let mut identity = Identity::joined(settings(), CHANCE.to_owned(), NodeId(4), ReplicaId(9));
        let group = GroupId(1);
        assert!(identity.may_open(group, ReplicaId(12)));
        identity.hold(Held { group, replica: ReplicaId(12), state: HeldState::Gone });
        identity.let_go(group);
        let disk = empty();
        identity.save(&disk).unwrap();
        let after = load(&disk.power_cut(0)).unwrap().unwrap();
        assert!(!after.may_open(group, ReplicaId(12)), "an old map may still place it here");
        assert!(after.may_open(group, ReplicaId(13)) && after.may_open(GroupId(2), ReplicaId(11)));
    }

    #[test]
    fn a_node_that_was_alone_is_read() {
        let disk = empty();
        let text = r#"{"version":1,"node":1,"made":true,
            "cluster":{"id":"cccccccccccccccccccccccccccccccc","hash_seed":18446744073709551615,"shards":2,"created_at":5},
            "replicas":[{"group":0,"replica":1},{"group":1,"replica":2},{"group":2,"replica":3}],"next_replica":4}"#;
        put(&disk, text);
        let mut expected = first();
        expected.made = true;
        expected.replicas.iter_mut().for_each(|held| held.state = HeldState::Kept);
        assert_eq!(load(&disk).unwrap(), Some(expected));
        for (from, to) in [("\"group\":2", "\"group\":1"), ("\"next_replica\":4", "\"next_replica\":3")] {
            put(&disk, &text.replace(from, to));
            assert!(matches!(load(&disk), Err(IdentityError::Damaged(_))), "{to}");
        }
    }

    #[test]
    fn damage_and_newer_versions_are_told_apart() {
        let disk = empty();
        put(&disk, "{\"version\":2");
        assert!(matches!(load(&disk), Err(IdentityError::Damaged(_))));
        put(&disk, "{\"version\":3,\"zones\":[]}");
        assert!(matches!(load(&disk), Err(IdentityError::Newer(3))));
        let good = serde_json::to_string(&first()).unwrap();
        put(&disk, &good);
        assert!(load(&disk).unwrap().is_some());
        for (from, to) in [
            ("\"shards\":2", "\"shards\":3"),
            ("\"group\":2", "\"group\":1"),
            ("\"group\":2", "\"group\":7"),
            ("89abcdef\",", "\","),
        ] {
            assert!(good.contains(from));
            put(&disk, &good.replacen(from, to, 1));
            assert!(matches!(load(&disk), Err(IdentityError::Damaged(_))), "{to}");
        }
    }
}
