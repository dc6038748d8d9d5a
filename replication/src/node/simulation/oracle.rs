//! What clients may see, and what replicas must be like. Knows nothing of Raft: it is told what was asked and answered.
//!
//! Every write has a number of its own, sets a register to it and makes a record named for it. A record shows the index
//! of the entry that last changed it, so what a lookup sees tells which write it saw and where that is in the log.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_types::ids::{GroupId, NodeId, ReplicaId, ShardId};
use tokio::time::Instant;

/// How a write ended, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may be there or come.
    Open,
    /// It is there.
    Acknowledged,
    /// It never was.
    Refused,
}

/// A write.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) shard: ShardId,
    pub(super) register: u64,
    pub(super) fate: Fate,
    /// The entry that did it, once that is known.
    pub(super) index: Option<u64>,
}

/// What was there before a lookup or write began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    /// The highest entry of the shard that was acknowledged or seen.
    pub(super) index: u64,
    /// The highest one that has set the register.
    pub(super) register: u64,
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Oracle {
    /// By number.
    pub(super) writes: BTreeMap<u32, Write>,
    /// The write at an index of a shard.
    at: BTreeMap<(ShardId, u64), u32>,
    /// The highest entry that was acknowledged or seen, and when it came to be: ascending.
    floors: BTreeMap<ShardId, Vec<(Instant, u64)>>,
    registers: BTreeMap<(ShardId, u64), u64>,
    /// How far a replica was seen to be in one run of its node.
    seen: BTreeMap<(ReplicaId, u64), u64>,
    /// The state at an index.
    states: BTreeMap<(ShardId, u64), (String, NodeId)>,
    pub(super) violations: Vec<String>,
}

impl Oracle {
    /// Something that must not be.
    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// Begins a write.
    pub(super) fn begin(&mut self, number: u32, shard: ShardId, register: u64) {
        self.writes.insert(number, Write { shard, register, fate: Fate::Open, index: None });
    }

    /// What was there until now.
    pub(super) fn floor(&self, shard: ShardId, register: u64) -> Floor {
        let index = self.floors.get(&shard).and_then(|floors| floors.last()).map_or(0, |(_, index)| *index);
        Floor { index, register: self.registers.get(&(shard, register)).copied().unwrap_or(0) }
    }

    /// The highest entry that was acknowledged or seen before a moment.
    pub(super) fn floor_at(&self, shard: ShardId, at: Instant) -> u64 {
        let floors = self.floors.get(&shard).map_or(&[][..], Vec::as_slice);
        let before = floors.partition_point(|(when, _)| *when <= at);
        before.checked_sub(1).map_or(0, |last| floors[last].1)
    }

    fn rise(&mut self, shard: ShardId, index: u64) {
        let floors = self.floors.entry(shard).or_default();
        if floors.last().is_none_or(|(_, last)| *last < index) {
            floors.push((Instant::now(), index));
        }
    }

    /// A write was acknowledged. `once`: it was proposed once, so the index is where it is.
    pub(super) fn acknowledged(&mut self, number: u32, index: u64, floor: Floor, once: bool) {
        let shard = self.writes[&number].shard;
        self.check(index > floor.index, || {
            format!(
                "write {number} was acknowledged at entry {index} of shard {shard}, but {} was known before it began",
                floor.index
            )
        });
        self.rise(shard, index);
        if once {
            self.place(number, index);
        }
        self.writes.get_mut(&number).unwrap().fate = Fate::Acknowledged;
    }

    /// Nothing was done by a write.
    pub(super) fn refused(&mut self, number: u32) {
        self.writes.get_mut(&number).unwrap().fate = Fate::Refused;
    }

    /// A write is at an index: there alone, and no other is there.
    fn place(&mut self, number: u32, index: u64) {
        let Some(write) = self.writes.get_mut(&number) else {
            return self.violated(format!("write {number} is there, and nobody has made it"));
        };
        let (shard, register, refused, known) = (write.shard, write.register, write.fate == Fate::Refused, write.index);
        write.index = Some(index);
        self.check(!refused, || format!("write {number} was refused and is there at entry {index}"));
        self.check(known.is_none_or(|known| known == index), || {
            format!("write {number} of shard {shard} was applied twice: at entry {known:?} and at {index}")
        });
        let other = *self.at.entry((shard, index)).or_insert(number);
        self.check(other == number, || {
            format!("writes {number} and {other} are both at entry {index} of shard {shard}")
        });
        let highest = self.registers.entry((shard, register)).or_insert(0);
        *highest = index.max(*highest);
    }

    /// A lookup of a register saw this write, made by this entry; or nothing.
    pub(super) fn saw(&mut self, shard: ShardId, register: u64, seen: Option<(u32, u64)>) {
        let Some((number, index)) = seen else { return };
        self.place(number, index);
        let write = &self.writes[&number];
        let is_its = (write.shard, write.register) == (shard, register);
        self.check(is_its, || {
            format!("write {number} is in register {register} of shard {shard}, where it was not made")
        });
    }

    /// A lookup that had to see all that was there before found less.
    pub(super) fn linearizable(
        &mut self,
        shard: ShardId,
        register: u64,
        floor: Floor,
        applied: u64,
        seen: Option<(u32, u64)>,
    ) {
        self.check(applied >= floor.index, || {
            format!(
                "a linearizable lookup in shard {shard} was answered from entry {applied}, after {} was known",
                floor.index
            )
        });
        let index = seen.map_or(0, |(_, index)| index);
        self.check(index >= floor.register, || {
            format!(
                "a linearizable lookup of register {register} of shard {shard} saw entry {index}, after {} was known",
                floor.register
            )
        });
    }

    /// A lookup in a replica that says it is no older than this.
    pub(super) fn bounded(&mut self, shard: ShardId, node: NodeId, applied: u64, age: Duration) {
        let Some(then) = Instant::now().checked_sub(age) else { return };
        let floor = self.floor_at(shard, then);
        self.check(applied >= floor, || {
            format!("a lookup in shard {shard} on node {node} was answered from entry {applied}; {floor} was known {age:?} before")
        });
    }

    /// A replica has applied so much. Never less than it had, in one run of its node.
    pub(super) fn applied(&mut self, group: GroupId, replica: ReplicaId, boot: u64, applied: u64) {
        let before = self.seen.insert((replica, boot), applied).unwrap_or(0);
        self.check(applied >= before, || {
            format!("replica {replica} of group {group} went back from entry {before} to {applied}")
        });
        if let Some(shard) = group.0.checked_sub(1).map(ShardId) {
            // What is applied is committed, so whoever begins to look now must see it.
            self.rise(shard, applied);
        }
    }

    /// A replica's whole state at an index: the same on every node.
    pub(super) fn state(&mut self, node: NodeId, shard: ShardId, index: u64, state: String) {
        let (known, by) = self.states.entry((shard, index)).or_insert_with(|| (state.clone(), node)).clone();
        self.check(known == state, || {
            format!("shard {shard} at entry {index} is on node {by}\n  {known}\nand on node {node}\n  {state}")
        });
    }
}
