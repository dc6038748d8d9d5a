//! A cluster in one thread, under simulated time, chance, disks and wires: everything from the proposer to the log is what
//! runs elsewhere; only TCP, the operating system's files and its clock are not.
//!
//! A run follows from one number, its seed. First the cluster forms and things go wrong while clients write and look up
//! (*safety*: nothing that the oracle forbids may be seen); then everything is mended and the cluster must come to rest
//! with all that was ever acknowledged on every replica (*liveness*).
//!
//! `LARDER_SEEDS=1000..2000` in the environment (see `.ci/simulate`) runs other seeds than the sixty of every build, and
//! `LARDER_SEEDS=1234` one, and tells its story.

mod client;
mod machines;
mod nemesis;
mod net;
mod oracle;
mod plan;
mod trace;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_types::ids::{CollectionId, Generation, GroupId, NodeId, ShardId, SyncSlot};
use tokio::time::{Instant, sleep};

use self::machines::{Machines, Off};
use self::net::Net;
use self::oracle::Fate;
use self::plan::Plan;
use self::trace::Trace;
use self::world::World;
use super::Consistency;
use crate::catalog::CatalogCommand;
use crate::simulated;

const SEED: u64 = 11;
const SHARDS: u16 = 2;
/// Runs of every build.
const SEEDS: u64 = 60;
const COLLECTION: CollectionId = CollectionId(0);
const FOUNDER: NodeId = NodeId(1);
const MAX_STALENESS: Duration = Duration::from_secs(2);

/// How long the cluster may take to form, and to come to rest when everything is mended.
const REST: Duration = Duration::from_secs(120);

/// How long a cluster at rest may take to answer, with a node in it that has just been started.
const ANSWER: Duration = Duration::from_secs(60);

/// The client that asks at the end.
const LAST: u64 = 99;

/// How often all replicas are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    hash: u64,
    lines: u64,
    reached: Reached,
}

/// How much of what runs are for has come up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Reached {
    acknowledged: u64,
    unknown: u64,
    /// Times that machines were switched on.
    boots: u64,
    /// Snapshots that were sent and installed.
    snapshots: u64,
    /// Changes of groups' replicas.
    changes: u64,
    /// Terms of the shards' groups.
    terms: u64,
}

impl Reached {
    fn of(world: &World) -> Self {
        let oracle = world.oracle();
        let count = |fate| oracle.writes.values().filter(|write| write.fate == fate).count() as u64;
        let alive = world.machines.alive();
        let shards = alive.iter().flat_map(|alive| alive.node.status().groups).filter(|group| group.shard.is_some());
        Self {
            acknowledged: count(Fate::Acknowledged),
            unknown: count(Fate::Open),
            boots: world.machines.boots(),
            snapshots: world.machines.net.installed(),
            changes: alive.first().map_or(0, |alive| alive.node.catalog().map.next_change),
            terms: shards.map(|group| group.term).sum(),
        }
    }

    fn is_beyond(&self, other: Self) -> bool {
        self.acknowledged > other.acknowledged
            && self.unknown > other.unknown
            && self.boots > other.boots
            && self.snapshots > other.snapshots
            && self.changes > other.changes
            && self.terms > other.terms
    }

    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.boots += other.boots;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
        self.terms += other.terms;
    }
}

/// Runs a seed.
///
/// # Errors
/// What went wrong that must not, with the plan and the end of the story.
fn run(seed: u64, aloud: bool) -> Result<Story, String> {
    simulated::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (plan, trace) = (Plan::new(), Trace::new(aloud));
        let world = World::new(Machines::new(Net::new(trace.clone()), plan.clone()), trace.clone());
        let _listening = tracing::subscriber::set_default(world.listener());
        let lived = live(&world, &plan).await;
        let violations = world.oracle().violations.clone();
        let lived = if violations.is_empty() { lived } else { Err(violations.join("\n")) };
        let story = Story { hash: trace.hash(), lines: trace.lines(), reached: Reached::of(&world) };
        // They and the wires hold each other.
        world.machines.all().into_iter().for_each(|(id, _)| world.machines.crash(id, Off::Killed));
        lived.map(|()| story).map_err(|why| format!("seed {seed}: {why}\n{plan:?}\n\n{}", trace.end()))
    })
}

async fn live(world: &Arc<World>, plan: &Plan) -> Result<(), String> {
    form(world, plan).await?;
    let mut clients = Vec::new();
    for name in 0..plan.clients {
        clients.push(tokio::spawn(client::run(Arc::clone(world), name)));
    }
    let watching = tokio::spawn(watch(Arc::clone(world)));
    nemesis::run(world, plan).await;
    nemesis::heal(world);
    world.end();
    for client in clients {
        client.await.map_err(|error| format!("a client has ended: {error}"))?;
    }
    rest(world).await?;
    watching.abort();
    last_look(world).await
}

/// Looks at all replicas again and again.
async fn watch(world: Arc<World>) {
    loop {
        world.inspect();
        if !world.oracle().violations.is_empty() {
            return;
        }
        sleep(GLANCE).await;
    }
}

/// Makes the cluster.
async fn form(world: &Arc<World>, plan: &Plan) -> Result<(), String> {
    world.machines.found();
    until(world, || world.machines.any().map(drop).ok_or_else(|| "the first node is not up".to_owned())).await?;
    for _ in 1..plan.machines {
        world.machines.join().await;
    }
    until(world, || world.is_settled()).await?;
    let name = "planes".parse().unwrap();
    let by = world.machines.any().ok_or("nobody is up")?;
    let put = by.node.propose_catalog(CatalogCommand::PutCollection { name, primary_index: None }).await;
    put.map_err(|error| error.to_string())?;
    for shard in (0..SHARDS).map(ShardId) {
        let fence = larder_storage::command::fence(COLLECTION, SyncSlot(0), Generation(1));
        by.node.propose(shard, vec![fence]).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Waits until everything is as it should be.
async fn until(world: &Arc<World>, is_so: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + REST;
    loop {
        world.inspect();
        if let Some(violation) = world.oracle().violations.first() {
            return Err(violation.clone());
        }
        match is_so() {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > deadline => {
                return Err(format!("the cluster does not come to rest: {why}\n{}", world.show()));
            }
            Err(_) => sleep(GLANCE).await,
        }
    }
}

/// Everything is mended: all comes to rest, and writes and lookups go through.
async fn rest(world: &Arc<World>) -> Result<(), String> {
    let is_settled = || {
        // What was still to crash does, and comes back.
        world.machines.reap();
        world.machines.all().into_iter().filter(|(_, on)| !on).for_each(|(id, _)| world.machines.start(id));
        world.is_settled()
    };
    until(world, is_settled).await?;
    for shard in (0..SHARDS).map(ShardId) {
        let deadline = Instant::now() + ANSWER;
        while !client::write_to(world, LAST, shard, 0).await {
            // What was still to crash may have done so just now, and where replicas are few that is a majority.
            let _ = is_settled();
            if Instant::now() > deadline {
                return Err(format!("nobody takes a write to shard {shard}"));
            }
        }
        for (id, _) in world.machines.all() {
            for level in [Consistency::Any, Consistency::Leader, Consistency::Linearizable] {
                answers(world, id, shard, level).await?;
            }
        }
    }
    until(world, is_settled).await
}

/// A node answers lookups soon.
async fn answers(world: &Arc<World>, id: NodeId, shard: ShardId, level: Consistency) -> Result<(), String> {
    let deadline = Instant::now() + ANSWER;
    while Instant::now() < deadline {
        world.machines.start(id);
        let by = world.machines.alive().into_iter().find(|alive| alive.id == id);
        if let Some(by) = by
            && client::read_by(world, LAST, by, (shard, 0), level).await
        {
            return Ok(());
        }
        sleep(GLANCE).await;
    }
    Err(format!("node {id} answers no lookup in shard {shard} at level {level:?}"))
}

/// Every replica shows every write that was acknowledged, and none that was refused.
async fn last_look(world: &Arc<World>) -> Result<(), String> {
    let writes = world.oracle().writes.clone();
    for alive in world.machines.alive() {
        for shard in (0..SHARDS).map(ShardId) {
            let Some(replica) = alive.node.replicas.get(GroupId::from(shard)) else { continue };
            let Some(reader) = &replica.reader else { continue };
            let mut records = 0;
            for (number, write) in writes.iter().filter(|(_, write)| write.shard == shard) {
                let seen = client::look(reader, &client::record_key(shard, *number));
                records += u64::from(seen.is_some());
                let wrong = match (write.fate, seen) {
                    (Fate::Acknowledged, None) => "is lost",
                    (Fate::Refused, Some(_)) => "was refused and is there",
                    (_, Some((other, _))) if other != *number => "shows another",
                    (_, Some((_, index))) if write.index.is_some_and(|known| known != index) => "is at another entry",
                    _ => continue,
                };
                return Err(format!("write {number} {wrong} on node {}: {write:?}, {seen:?}", alive.id));
            }
            let held = reader.stats(COLLECTION).records;
            if held < records || held > records + client::REGISTERS {
                return Err(format!(
                    "node {} holds {held} records of shard {shard}, and {records} were written",
                    alive.id
                ));
            }
        }
    }
    Ok(())
}

/// The seeds of this build, or those that the environment asks for.
fn seeds() -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("LARDER_SEEDS") else { return 1..SEEDS + 1 };
    let (first, end) = wanted.split_once("..").unwrap_or((&wanted, ""));
    let first = first.parse().expect("LARDER_SEEDS is a number or a range `1..100`");
    first..end.parse().unwrap_or(first + 1)
}

#[test]
fn nothing_that_was_acknowledged_is_lost_whatever_goes_wrong() {
    let aloud = seeds().count() == 1;
    let left = Mutex::new(seeds());
    let (worst, reached) = (Mutex::new(Vec::new()), Mutex::new(Reached::default()));
    let work = || {
        while let Some(seed) = { left.lock().unwrap().next() } {
            let began = std::time::Instant::now();
            let ended = std::thread::Builder::new().spawn(move || run(seed, aloud)).unwrap().join();
            let ended = ended.unwrap_or_else(|_| Err(format!("seed {seed}: a panic")));
            match ended {
                Ok(story) => {
                    println!("seed {seed}: {story:?} in {:?}", began.elapsed());
                    reached.lock().unwrap().add(story.reached);
                }
                Err(why) => {
                    println!("{}", why.split("\n\n").next().unwrap_or_default());
                    worst.lock().unwrap().push((seed, why));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let reached = reached.into_inner().unwrap();
    println!("{reached:?}");
    let worst = worst.into_inner().unwrap();
    let bad: Vec<_> = worst.iter().map(|(seed, _)| seed).collect();
    let much = Reached { acknowledged: 1000, unknown: 20, boots: 100, snapshots: 20, changes: 100, terms: 300 };
    assert!(seeds().count() < 50 || reached.is_beyond(much), "too little comes up in these runs: {reached:?}");
    assert!(worst.is_empty(), "seeds {bad:?} end badly; the story of the first:\n{}", worst[0].1);
}

#[test]
fn a_seed_is_a_run() {
    for seed in [1, 2] {
        let run = || std::thread::spawn(move || run(seed, false).unwrap_or_else(|why| panic!("{why}"))).join().unwrap();
        assert_eq!(run(), run(), "seed {seed}");
    }
}
