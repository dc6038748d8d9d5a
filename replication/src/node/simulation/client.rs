//! Clients: they write and look up by whichever node, repeat what is unknown, and tell the oracle what they were told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_storage::command::{PatchEncoder, PatchOrigin};
use larder_storage::record::Dictionary;
use larder_storage::shard::ShardReader;
use larder_types::hash::{KeyHash, ShardCount};
use larder_types::ids::{FieldId, Generation, GroupId, ShardId, SyncSlot};
use larder_types::key::Key;
use larder_types::value::Value;
use tokio::time::{sleep, timeout};

use super::machines::Alive;
use super::oracle::Floor;
use super::world::World;
use super::{COLLECTION, MAX_STALENESS, SEED, SHARDS};
use crate::node::replica::Replica;
use crate::node::{Consistency, ProposeError, ReadTarget};
use crate::simulated::{below, happens, one_of, pause};

/// Registers of each shard: few, so that writes meet.
pub(super) const REGISTERS: u64 = 4;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// How much older than it may be a lookup's answer is: what lookups go by is judged ten times a second.
const JUDGED: Duration = Duration::from_millis(110);

fn some_shard() -> ShardId {
    *one_of(&[0, 1].map(ShardId))
}

/// The key of a register.
fn register_key(shard: ShardId, register: u64) -> Key {
    key_in(shard, &format!("r{register}"))
}

/// The key of the record that a write makes.
pub(super) fn record_key(shard: ShardId, number: u32) -> Key {
    key_in(shard, &format!("w{number}"))
}

/// A key with this beginning that the shard holds.
fn key_in(shard: ShardId, beginning: &str) -> Key {
    let shards = ShardCount::new(SHARDS).unwrap();
    let mut keys = (0..).map(|at| Key::new(&format!("{beginning}-{at}")).unwrap());
    keys.find(|key| shards.shard_of(KeyHash::of(SEED, key.as_bytes())) == shard).unwrap()
}

/// The write that a record shows, and the entry that made it.
pub(super) fn look(reader: &ShardReader, key: &Key) -> Option<(u32, u64)> {
    let dictionary = Dictionary::new([(FieldId(0), "n")]);
    reader.get(COLLECTION, KeyHash::of(SEED, key.as_bytes()), key.as_bytes(), |record| {
        let mut json = Vec::new();
        record.write_json(&dictionary, None, &mut json);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        (u32::try_from(json["n"].as_u64().unwrap()).unwrap(), record.version())
    })
}

/// All registers of a shard.
pub(super) fn registers(reader: &ShardReader, shard: ShardId) -> Vec<Option<(u32, u64)>> {
    (0..REGISTERS).map(|register| look(reader, &register_key(shard, register))).collect()
}

/// The entries of a write.
fn entries(shard: ShardId, register: u64, number: u32) -> Vec<Bytes> {
    let origin =
        PatchOrigin { collection: COLLECTION, slot: SyncSlot(0), generation: Generation(1), seq: number, at: 0 };
    let mut encoder = PatchEncoder::new(origin, 64 << 10);
    for key in [register_key(shard, register), record_key(shard, number)] {
        encoder.upsert(&key, &[(FieldId(0), Value::Int(i64::from(number)))]);
    }
    encoder.finish()
}

/// One client, until it is told to stop.
pub(super) async fn run(world: Arc<World>, name: u64) {
    while !world.is_over() {
        sleep(pause(100_000)).await;
        match below(3) {
            0 => drop(write(&world, name).await),
            _ => read(&world, name).await,
        }
    }
}

/// Writes, and repeats it while its outcome is unknown. Returns whether it was acknowledged.
pub(super) async fn write(world: &Arc<World>, name: u64) -> bool {
    let (shard, register) = (some_shard(), below(REGISTERS));
    write_to(world, name, shard, register).await
}

/// The same to a register.
pub(super) async fn write_to(world: &Arc<World>, name: u64, shard: ShardId, register: u64) -> bool {
    let number = world.number();
    let entries = entries(shard, register, number);
    let floor = world.oracle().floor(shard, register);
    world.oracle().begin(number, shard, register);
    let mut may_be_there = false;
    for attempt in 0..6 {
        let Some(by) = world.machines.any() else {
            sleep(Duration::from_millis(300)).await;
            continue;
        };
        let answer = timeout(PATIENCE, by.node.propose(shard, entries.clone())).await;
        let answer = if world.machines.runs(&by) {
            answer.unwrap_or(Err(ProposeError::Unknown))
        } else {
            Err(ProposeError::Unknown)
        };
        world.tell(format_args!("client {name}: write {number} to {shard}/{register} by {} {answer:?}", by.id));
        match answer {
            Ok(done) => {
                let index = done.last().map_or(0, |(index, _)| *index);
                world.oracle().acknowledged(number, index, floor, !may_be_there && attempt == 0);
                return true;
            }
            Err(ProposeError::Unavailable | ProposeError::Overloaded) => {}
            Err(_) => may_be_there = true,
        }
        if happens(200) {
            break;
        }
    }
    if !may_be_there {
        world.oracle().refused(number);
    }
    false
}

/// Looks a register up.
async fn read(world: &Arc<World>, name: u64) {
    let level = *one_of(&[Consistency::Any, Consistency::Leader, Consistency::Linearizable]);
    let (shard, register) = (some_shard(), below(REGISTERS));
    if let Some(by) = world.machines.any() {
        read_by(world, name, by, (shard, register), level).await;
    }
}

/// Looks a register up by a node at a level. Returns whether there was an answer.
pub(super) async fn read_by(
    world: &Arc<World>,
    name: u64,
    by: Alive,
    (shard, register): (ShardId, u64),
    level: Consistency,
) -> bool {
    let floor = world.oracle().floor(shard, register);
    let Some((at, reader)) = find(world, by, shard, level).await else { return false };
    let seen = look(&reader, &register_key(shard, register));
    let applied = reader.applied();
    world.tell(format_args!("client {name}: read {shard}/{register} {level:?} on {}: {seen:?} of {applied}", at.id));
    check(world, &at, &reader, (shard, register, level), floor, seen);
    true
}

fn check(
    world: &World,
    at: &Alive,
    reader: &ShardReader,
    (shard, register, level): (ShardId, u64, Consistency),
    floor: Floor,
    seen: Option<(u32, u64)>,
) {
    let (mut oracle, applied) = (world.oracle(), reader.applied());
    match level {
        Consistency::Linearizable => oracle.linearizable(shard, register, floor, applied, seen),
        Consistency::Any => oracle.bounded(shard, at.id, applied, MAX_STALENESS + JUDGED),
        Consistency::Leader => {}
    }
    // The replica that was found may have been replaced since.
    let replica = at.node.replicas.get(GroupId::from(shard));
    let is_it = |replica: &Arc<Replica>| replica.reader.as_ref().is_some_and(|known| known.is_same(reader));
    if let Some(replica) = replica.filter(is_it) {
        oracle.applied(replica.id, replica.replica, at.boot, applied);
    }
    oracle.saw(shard, register, seen);
}

/// The replica that answers a lookup, as `server` finds it: by one hop at most.
async fn find(world: &World, by: Alive, shard: ShardId, level: Consistency) -> Option<(Alive, ShardReader)> {
    let target = timeout(PATIENCE, by.node.read(shard, level, false)).await.ok()?.ok()?;
    let there = match target {
        ReadTarget::Here(reader) => return world.machines.runs(&by).then_some((by, reader)),
        ReadTarget::There(there) => there,
    };
    sleep(pause(20_000)).await;
    let there = world.machines.alive().into_iter().find(|alive| alive.id == there)?;
    match timeout(PATIENCE, there.node.read(shard, level, true)).await.ok()?.ok()? {
        ReadTarget::Here(reader) => world.machines.runs(&there).then_some((there, reader)),
        ReadTarget::There(_) => {
            world.oracle().violated("a lookup that was forwarded once was to be forwarded again");
            None
        }
    }
}
