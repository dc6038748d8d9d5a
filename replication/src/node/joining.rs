//! How a node with a new data directory finds its cluster, or makes it.
//!
//! All first nodes are given the same list of seeds. The first of the list makes the cluster, but only when every other
//! seed has said that it belongs to none: a first node that has lost its disk must find the cluster and not make a second
//! one; and only when none of them is to make one too. Everybody else asks the seeds in turn until one belongs to a
//! cluster, and asks that one to be taken in.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_types::error::ErrorCode;
use larder_types::ids::{GroupId, NodeId, ReplicaId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::error::{ProposeError, StartError};
use super::kind::Kind;
use super::proposer::Proposer;
use super::report::Reports;
use crate::catalog::{Catalog, CatalogCommand, CatalogReply, ClusterSettings, Contact, NodeState, encode_command};
use crate::failure::Failure;
use crate::peers::{Mismatch, PeerError, Peers, duplicate};
use crate::raft::types::Response;

/// How long a seed may take to answer.
const CALL: Duration = Duration::from_secs(2);
/// How long a seed may take to have a node taken in, which waits for a majority.
const JOIN: Duration = Duration::from_secs(15);
/// Pause before a node that nobody could tell whether it still has its place asks again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a node's number may seem to be taken: by itself, before it was started again elsewhere.
const OCCUPIED: Duration = Duration::from_secs(3);
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(300);
/// How often the operator is told what is waited for.
const TELL: Duration = Duration::from_secs(10);

/// Who a node is, as it tells strangers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    /// The cluster that it belongs to, if any.
    pub(crate) cluster: Option<String>,
    /// Its number there.
    pub(crate) node: Option<NodeId>,
    /// If it belongs to none: the seed that it expects to make one.
    #[serde(default)]
    pub(crate) first: Option<String>,
}

/// The cluster that a node belongs to, and its place there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Home {
    /// What was fixed when the cluster was made.
    pub(crate) settings: ClusterSettings,
    /// The node's number.
    pub(crate) node: NodeId,
    /// Its replica of the catalog.
    pub(crate) replica: ReplicaId,
    /// How many replicas groups have.
    pub(crate) replication_factor: u8,
}

/// The wish to be taken in, or back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Application {
    /// What the node tells of itself.
    pub(crate) contact: Contact,
    /// Shards, as its configuration has them.
    pub(crate) shards: u16,
    /// Replicas of each group, as its configuration has them.
    pub(crate) replication_factor: u8,
}

/// What comes of the wish to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is.
    Welcome(Home),
    /// Not now: ask again.
    Later(String),
    /// It never will be, unless somebody does what this says.
    Refused(String),
    /// It is heard of from another address, if only until a moment ago: ask again soon.
    Occupied(String),
}

/// What a node that has no cluster wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// What it tells of itself.
    pub(crate) contact: Contact,
    /// Where others may be, this node among them. The first one makes the cluster.
    pub(crate) seeds: Vec<String>,
    /// Shards of a new cluster.
    pub(crate) shards: u16,
    /// Replicas in a new cluster.
    pub(crate) replication_factor: u8,
}

impl Wanted {
    fn application(&self) -> Application {
        let Self { contact, shards, replication_factor, .. } = self;
        Application { contact: contact.clone(), shards: *shards, replication_factor: *replication_factor }
    }
}

/// What comes of looking for a cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was taken in.
    Home(Home),
    /// There is none, and this node is to make it.
    Nobody,
}

/// Tells strangers who this node is, and takes them in.
///
/// Invariant: it says that this node belongs to no cluster only when that is known. Whoever is to make a cluster goes by
/// it, and a node that has just been started may well belong to one.
#[derive(Default)]
pub(crate) struct Doorkeeper(RwLock<Belonging>);

/// Where a node belongs, as far as it knows.
#[derive(Clone, Default)]
enum Belonging {
    /// Its data directory was not looked into yet.
    #[default]
    Unknown,
    /// To no cluster; this seed is to make one.
    Nowhere(Option<String>),
    /// To this cluster, as this node.
    Home(ClusterSettings, NodeId),
}

impl Doorkeeper {
    /// Notes which cluster this node belongs to.
    pub(crate) fn move_in(&self, settings: ClusterSettings, node: NodeId) {
        self.set(Belonging::Home(settings, node));
    }

    /// Notes that this node belongs to no cluster yet, and which seed is to make one.
    pub(crate) fn is_homeless(&self, first: Option<String>) {
        self.set(Belonging::Nowhere(first));
    }

    fn set(&self, belonging: Belonging) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = belonging;
    }

    fn belonging(&self) -> Belonging {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who this node is; `None` if it does not know yet.
    pub(crate) fn who(&self) -> Option<Who> {
        match self.belonging() {
            Belonging::Unknown => None,
            Belonging::Nowhere(first) => Some(Who { first, ..Who::default() }),
            Belonging::Home(settings, node) => Some(Who { cluster: Some(settings.id), node: Some(node), first: None }),
        }
    }

    /// Has a node taken in by whoever leads the catalog.
    pub(crate) async fn admit(&self, proposer: Option<&Arc<Proposer>>, contact: Contact) -> Answer {
        let (Belonging::Home(settings, _), Some(proposer)) = (self.belonging(), proposer) else {
            return Answer::Later("this node belongs to no cluster yet, or is still starting".to_owned());
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let command = encode_command(&CatalogCommand::JoinNode { contact, at });
        let answers = proposer.propose(GroupId::CATALOG, vec![command]).await;
        match answers.map(|answers| answers.into_iter().next()) {
            Ok(Some((_, Response::Catalog(Ok(CatalogReply::Joined { node, replica, replication_factor }))))) => {
                Answer::Welcome(Home { settings, node, replica, replication_factor })
            }
            // The cluster is just being made.
            Ok(Some((_, Response::Catalog(Err(refusal))))) if refusal.code == ErrorCode::ShardUnavailable => {
                Answer::Later(refusal.message)
            }
            Ok(Some((_, Response::Catalog(Err(refusal))))) => Answer::Refused(refusal.message),
            Err(ProposeError::Refused(refusal)) => Answer::Refused(refusal.message),
            Ok(other) => Answer::Refused(format!("the catalog answered {other:?}: upgrade this node")),
            Err(error) => Answer::Later(error.to_string()),
        }
    }
}

/// Why a node is not taken in, as far as that can be seen without the catalog's leader; asked first, so that a node that is
/// refused leaves no trace on the map.
pub(crate) fn objection(catalog: &Catalog, reports: &Reports, application: &Application) -> Option<Answer> {
    let Some(settings) = catalog.cluster.as_ref().filter(|_| !catalog.map.nodes.is_empty()) else {
        return Some(Answer::Later("this node has not heard from its cluster yet".to_owned()));
    };
    let Application { contact, shards, replication_factor } = application;
    if let Err(differs) = check_settings(settings, catalog.map.replication_factor, *shards, *replication_factor) {
        return Some(Answer::Refused(differs.to_string()));
    }
    // It has moved, or somebody has started a copy of its directory.
    let (id, known) = catalog.map.node_of(&contact.incarnation)?;
    let is_elsewhere = known.state != NodeState::Removed && known.contact.address != contact.address;
    (is_elsewhere && reports.is_heard(id)).then(|| Answer::Occupied(duplicate(id).message))
}

/// Looks for the cluster until it is found or this node is to make it.
///
/// # Errors
/// When the cluster refuses the node, or is not what the configuration says.
pub(crate) async fn find(peers: &Peers, wanted: &Wanted) -> Result<Found, StartError> {
    let own = &wanted.contact.address;
    let others: Vec<&String> = wanted.seeds.iter().filter(|seed| *seed != own).collect();
    let is_first = wanted.seeds.first() == Some(own);
    let mut told: Option<Instant> = None;
    loop {
        let mut missing: BTreeMap<&str, String> = BTreeMap::new();
        for seed in &others {
            match ask::<Who>(peers, seed, Kind::Who, Bytes::new(), CALL).await {
                Err(problem) => drop(missing.insert(seed, problem.to_string())),
                // It would make a cluster too.
                Ok(Who { cluster: None, first: Some(other), .. }) if is_first && other == **seed => {
                    let problem = format!(
                        "its `cluster.seeds` begins with itself, as this node's list with {own}: give all nodes the same \
                         list"
                    );
                    missing.insert(seed, problem);
                }
                Ok(Who { cluster: None, .. }) => {}
                Ok(Who { cluster: Some(cluster), .. }) => match join(peers, seed, &wanted.application(), JOIN).await {
                    Ok(Answer::Welcome(home)) => return Ok(Found::Home(home)),
                    Ok(Answer::Refused(why)) => {
                        return Err(StartError::Join(format!("cluster {cluster} does not take this node in: {why}")));
                    }
                    Ok(Answer::Later(problem) | Answer::Occupied(problem)) => drop(missing.insert(seed, problem)),
                    Err(problem) => drop(missing.insert(seed, problem.to_string())),
                },
            }
        }
        if is_first && missing.is_empty() {
            return Ok(Found::Nobody);
        }
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            told = Some(Instant::now());
            tell(is_first, own, &missing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn tell(is_first: bool, own: &str, missing: &BTreeMap<&str, String>) {
    let waits: Vec<_> = missing.iter().map(|(seed, problem)| format!("{seed} ({problem})")).collect();
    let waits = waits.join(", ");
    if is_first {
        tracing::info!(
            "waiting for {waits}: this node makes the cluster when every seed says that it belongs to none; \
             if a seed is gone for good, take it out of `cluster.seeds`"
        );
    } else if missing.is_empty() {
        tracing::info!("waiting for the first of `cluster.seeds` to make the cluster; this node is {own}");
    } else {
        tracing::info!("looking for the cluster: waiting for {waits}");
    }
}

async fn join(peers: &Peers, seed: &str, application: &Application, deadline: Duration) -> Result<Answer, PeerError> {
    let body = serde_json::to_vec(application).map_err(|error| garbled("the application", &error))?;
    ask(peers, seed, Kind::Join, body.into(), deadline).await
}

async fn ask<T: DeserializeOwned>(
    peers: &Peers,
    address: &str,
    kind: Kind,
    body: Bytes,
    deadline: Duration,
) -> Result<T, PeerError> {
    let (_, bytes) = peers.call_address(address, kind as u8, body, deadline).await?;
    serde_json::from_slice(&bytes).map_err(|error| garbled("its answer", &error))
}

fn garbled(what: &str, error: &serde_json::Error) -> PeerError {
    PeerError::Lost(format!("{what} cannot be read: {error}").into())
}

/// Refuses to go on in a cluster whose fixed settings differ from this node's configuration.
pub(crate) fn check_settings(
    settings: &ClusterSettings,
    replication_factor: u8,
    shards: u16,
    configured_factor: u8,
) -> Result<(), StartError> {
    let differs = |what: &str, theirs: u64, ours: u64| {
        let id = &settings.id;
        Err(StartError::Join(format!(
            "the configuration says `{what} = {ours}`, but cluster {id} has {theirs}, which is fixed when a cluster is \
             made: set `{what} = {theirs}`, the same on all nodes"
        )))
    };
    if settings.shards != shards {
        return differs("shards", settings.shards.into(), shards.into());
    }
    if replication_factor != configured_factor {
        return differs("cluster.replication_factor", replication_factor.into(), configured_factor.into());
    }
    Ok(())
}

/// Takes a known node back: brings its addresses up to date, and gives it another replica of the catalog if it has lost
/// its place while it was away. `None` if nobody can be asked now.
///
/// All seeds are asked at once and not for long: they may wait for this very node to have a majority.
///
/// # Errors
/// When the cluster refuses the node, or another process runs as this node, or a seed belongs to another cluster and none
/// to this one.
pub(crate) async fn come_back(peers: &Peers, wanted: &Wanted) -> Result<Option<Home>, StartError> {
    let since = Instant::now();
    loop {
        match ask_all(peers, wanted).await? {
            Back::Home(home) => return Ok(Some(home)),
            Back::Nobody => return Ok(None),
            // It may have run until just now.
            Back::Occupied(_) if since.elapsed() < OCCUPIED => tokio::time::sleep(PAUSE).await,
            Back::Occupied(why) => return Err(StartError::Join(why)),
        }
    }
}

/// What a node that comes back hears.
enum Back {
    Home(Home),
    Nobody,
    Occupied(String),
}

async fn ask_all(peers: &Peers, wanted: &Wanted) -> Result<Back, StartError> {
    let mut asking = JoinSet::new();
    for seed in wanted.seeds.iter().filter(|seed| **seed != wanted.contact.address) {
        let (peers, seed, application) = (peers.clone(), seed.clone(), wanted.application());
        asking.spawn(async move { join(&peers, &seed, &application, CALL).await });
    }
    let (mut back, mut foreign) = (Back::Nobody, None);
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(Answer::Welcome(home))) => return Ok(Back::Home(home)),
            Ok(Ok(Answer::Refused(why))) => return Err(StartError::Join(why)),
            Ok(Ok(Answer::Occupied(why))) => back = Back::Occupied(why),
            Ok(Err(PeerError::Refused(refused))) if refused.mismatch == Mismatch::Cluster => foreign = Some(refused),
            Ok(Ok(Answer::Later(_)) | Err(_)) | Err(_) => {}
        }
    }
    match (back, foreign) {
        (Back::Nobody, Some(foreign)) => Err(StartError::Join(foreign.message)),
        (back, _) => Ok(back),
    }
}

/// Asks again until the cluster has said whether this node still has its place, and ends the node if it has not: its
/// replica of the catalog would never hear of anything any more, least of all of that.
pub(crate) async fn ask_for_place(peers: Peers, wanted: Wanted, place: Place, failure: Failure) {
    loop {
        tokio::time::sleep(AGAIN).await;
        match come_back(&peers, &wanted).await {
            Ok(None) => {}
            Ok(Some(home)) if (home.node, home.replica) == place => return,
            Ok(Some(_)) => {
                return failure.fail("this node has lost its place in the cluster while it was away: start it again");
            }
            Err(why) => return failure.fail(why.to_string()),
        }
    }
}

/// A node's number and its replica of the catalog.
pub(crate) type Place = (NodeId, ReplicaId);

#[cfg(test)]
mod tests {
    use super::super::replicas::Replicas;
    use super::super::report::Report;
    use super::super::service::{Answerer, NodeService};
    use super::*;
    use crate::catalog::{ClusterMap, NodeInfo};
    use crate::peers::{Directory, PeerLimits, PeerOptions};
    use crate::raft::transfer::Receiving;

    fn settings() -> ClusterSettings {
        ClusterSettings { id: "ab".repeat(16), hash_seed: 1, shards: 16, created_at: 0 }
    }

    #[test]
    fn a_configuration_that_differs_is_refused_and_told_what_to_set() {
        check_settings(&settings(), 3, 16, 3).unwrap();
        let shards = check_settings(&settings(), 3, 32, 3).unwrap_err().to_string();
        assert!(shards.contains("set `shards = 16`"), "{shards}");
        let factor = check_settings(&settings(), 3, 16, 5).unwrap_err().to_string();
        assert!(factor.contains("set `cluster.replication_factor = 3`"), "{factor}");
    }

    fn contact(address: &str) -> Contact {
        Contact {
            incarnation: "0".repeat(32),
            address: address.to_owned(),
            advertise: String::new(),
            zone: String::new(),
        }
    }

    #[test]
    fn who_does_not_belong_is_refused_before_it_is_on_the_map() {
        let reports = Reports::new(NodeId(1), Duration::from_secs(900));
        let application = |address, shards| Application { contact: contact(address), shards, replication_factor: 3 };
        let mut catalog = Catalog::default();
        let objects = |catalog: &Catalog, application| objection(catalog, &reports, &application);
        assert!(matches!(objects(&catalog, application("a:1", 16)), Some(Answer::Later(_))));
        catalog.cluster = Some(settings());
        let info = NodeInfo { contact: contact("a:1"), state: NodeState::Active, joined_at: 0 };
        let map = ClusterMap { replication_factor: 3, nodes: [(NodeId(2), info)].into(), ..ClusterMap::default() };
        catalog.map = Arc::new(map);
        assert!(matches!(objects(&catalog, application("a:1", 32)), Some(Answer::Refused(_))));
        assert_eq!(objects(&catalog, application("a:1", 16)), None);
        assert_eq!(objects(&catalog, application("b:1", 16)), None, "it has moved");
        reports.note(NodeId(2), Report { boot: 1, groups: Vec::new(), bytes: 0 });
        assert_eq!(objects(&catalog, application("a:1", 16)), None);
        assert!(matches!(objects(&catalog, application("b:1", 16)), Some(Answer::Occupied(_))), "it runs elsewhere");
    }

    #[tokio::test]
    async fn a_node_without_a_cluster_takes_nobody_in() {
        let doorkeeper = Doorkeeper::default();
        // It may belong to one, so nobody must make another one by its word.
        assert_eq!(doorkeeper.who(), None);
        doorkeeper.is_homeless(None);
        assert_eq!(doorkeeper.who(), Some(Who::default()));
        assert!(matches!(doorkeeper.admit(None, contact("")).await, Answer::Later(_)));
        doorkeeper.move_in(settings(), NodeId(4));
        assert_eq!(doorkeeper.who(), Some(Who { cluster: Some(settings().id), node: Some(NodeId(4)), first: None }));
    }

    /// A node as far as strangers see it.
    async fn listen(boot: u64) -> (Peers, Arc<Answerer>) {
        let receiving = Arc::new(Receiving::new(Failure::new()));
        let answerer = Answerer::new(boot, Replicas::new(), Doorkeeper::default(), receiving);
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let options = PeerOptions { listen, tls: None, boot, limits: PeerLimits::default() };
        let service = Arc::new(NodeService(Arc::clone(&answerer)));
        (Peers::start(options, Arc::new(NoAddresses), service).await.unwrap(), answerer)
    }

    struct NoAddresses;

    impl Directory for NoAddresses {
        fn address(&self, _: NodeId) -> Option<String> {
            None
        }
    }

    fn wanted(own: &Peers, seeds: Vec<String>) -> Wanted {
        let contact = contact(&own.local_address().to_string());
        Wanted { contact, seeds, shards: 16, replication_factor: 3 }
    }

    /// Longer than it takes to ask everybody some times.
    const A_WHILE: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_cluster_is_made_only_when_every_seed_has_said_that_it_belongs_to_none() {
        let (first, _) = listen(1).await;
        let (second, theirs) = listen(2).await;
        let seeds = vec![first.local_address().to_string(), second.local_address().to_string()];
        let wanted = wanted(&first, seeds);
        // It has been started and has not looked yet to whom it belongs: the first one has lost its disk, perhaps.
        assert!(tokio::time::timeout(A_WHILE, find(&first, &wanted)).await.is_err());
        // It takes another one for the first: there would be two clusters.
        theirs.doorkeeper.is_homeless(Some(second.local_address().to_string()));
        assert!(tokio::time::timeout(A_WHILE, find(&first, &wanted)).await.is_err());
        theirs.doorkeeper.is_homeless(Some(first.local_address().to_string()));
        assert_eq!(find(&first, &wanted).await.unwrap(), Found::Nobody);
        theirs.doorkeeper.move_in(settings(), NodeId(2));
        assert!(tokio::time::timeout(A_WHILE, find(&first, &wanted)).await.is_err());
        // Nor while it cannot be reached.
        second.shutdown().await;
        assert!(tokio::time::timeout(A_WHILE, find(&first, &wanted)).await.is_err());
        first.shutdown().await;
    }

    #[tokio::test]
    async fn seeds_that_do_not_reach_each_other_make_no_cluster_but_the_first_and_that_waits() {
        let (first, mine) = listen(1).await;
        let (second, theirs) = listen(2).await;
        [&mine, &theirs].into_iter().for_each(|answerer| answerer.doorkeeper.is_homeless(None));
        let (a, b) = (first.local_address().to_string(), second.local_address().to_string());
        // An address that nobody listens at stands for each as the other sees it.
        let nobody = "127.0.0.1:1".to_owned();
        let (one, two) = (wanted(&first, vec![a, nobody.clone()]), wanted(&second, vec![nobody, b]));
        let both = futures_util::future::select(Box::pin(find(&first, &one)), Box::pin(find(&second, &two)));
        assert!(tokio::time::timeout(A_WHILE, both).await.is_err(), "one of them has found or made a cluster");
        first.shutdown().await;
        second.shutdown().await;
    }
}
