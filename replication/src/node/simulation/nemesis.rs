//! Makes things go wrong, and mends them.

use std::sync::Arc;
use std::time::Duration;

use larder_types::ids::{GroupId, NodeId, ReplicaId};
use tokio::time::{Instant, sleep};

use super::machines::{Alive, Off};
use super::net::Weather;
use super::plan::{Fault, Plan};
use super::world::World;
use crate::catalog::{CatalogCommand, NodeState};
use crate::node::reconciler;
use crate::simulated::{below, happens, one_of, pause};

/// Most machines of a run.
const MOST_MACHINES: usize = 6;

/// Lets things go wrong for as long as the plan says.
pub(super) async fn run(world: &Arc<World>, plan: &Plan) {
    let until = Instant::now() + plan.faults_for;
    world.machines.net.set_weather(plan.weather);
    while Instant::now() < until {
        sleep(pause(2_000 * plan.pause_millis)).await;
        // What is broken is mended about as often as something breaks.
        if happens(400) {
            mend(world, plan);
        } else {
            let fault = *one_of(&plan.faults);
            world.tell(format_args!("fault: {fault:?}"));
            strike(world, fault).await;
        }
    }
}

/// Mends something, by chance.
fn mend(world: &Arc<World>, plan: &Plan) {
    match below(3) {
        0 => {
            world.tell(format_args!("the wires are mended"));
            world.machines.net.mend();
            world.machines.net.set_weather(plan.weather);
        }
        1 => {
            let all = world.machines.all();
            let off: Vec<_> = all.iter().filter(|(_, on)| !on).collect();
            if !off.is_empty() {
                let id = one_of(&off).0;
                world.tell(format_args!("{id} is switched on"));
                world.machines.start(id);
            }
        }
        _ => all_of(world).into_iter().for_each(|id| world.machines.slow(id, None)),
    }
}

/// Mends everything.
pub(super) fn heal(world: &Arc<World>) {
    world.tell(format_args!("everything is mended"));
    world.machines.net.mend();
    world.machines.net.set_weather(Weather::FAIR);
    for id in all_of(world) {
        world.machines.slow(id, None);
        world.machines.start(id);
    }
}

fn all_of(world: &World) -> Vec<NodeId> {
    world.machines.all().into_iter().map(|(id, _)| id).collect()
}

/// A machine by chance, and rather one that leads a group.
fn some_machine(world: &World) -> NodeId {
    let all = all_of(world);
    let leads = |alive: &Alive| alive.node.replicas.all().iter().any(|replica| replica.raft.is_leader());
    if happens(300)
        && let Some(leader) = world.machines.any().filter(leads)
    {
        return leader.id;
    }
    *one_of(&all)
}

async fn strike(world: &Arc<World>, fault: Fault) {
    let (id, other) = (some_machine(world), some_machine(world));
    let (machines, net) = (&world.machines, &world.machines.net);
    match fault {
        Fault::PowerCut | Fault::Kill => {
            let how = if fault == Fault::Kill { Off::Killed } else { Off::PowerCut };
            world.tell(format_args!("{id} goes off: {how:?}"));
            machines.crash(id, how);
            restart_soon(world, id);
        }
        Fault::PowerCutWhileWriting => {
            machines.crash_after(id, below(40));
            world.tell(format_args!("{id} will go off"));
            restart_soon(world, id);
        }
        Fault::PowerCutOfAll => {
            for id in all_of(world) {
                machines.crash(id, Off::PowerCut);
                restart_soon(world, id);
            }
        }
        Fault::Stop => {
            world.tell(format_args!("{id} stops"));
            let stopping = Arc::clone(world);
            tokio::spawn(async move {
                stopping.machines.stop(id).await;
                restart_soon(&stopping, id);
            });
        }
        Fault::Isolate => {
            world.tell(format_args!("{id} is alone"));
            part(world, |node| node == id);
        }
        Fault::OneWay => {
            world.tell(format_args!("{id} does not reach {other}"));
            net.cut(id, other);
        }
        Fault::Split => {
            let part_of = below(1 << 16);
            world.tell(format_args!("split {part_of:b}"));
            part(world, |node| part_of >> (node.0 % 16) & 1 == 0);
        }
        Fault::Storm => net.set_weather(Weather { delay_micros: 200_000, lost: 100, repeated: 200 }),
        Fault::SlowDisk => {
            let micros = 10_000 << below(7);
            world.tell(format_args!("the disk of {id} takes {micros} us"));
            machines.slow(id, Some(micros));
        }
        Fault::Transfer => transfer(world).await,
        Fault::Drain => drain(world, id),
        Fault::Join => {
            if machines.all().len() < MOST_MACHINES {
                let world = Arc::clone(world);
                tokio::spawn(async move {
                    let joined = world.machines.join().await;
                    world.tell(format_args!("{joined} has joined"));
                });
            }
        }
    }
}

/// Cuts all wires between two parts of the machines.
fn part(world: &World, is_in: impl Fn(NodeId) -> bool) {
    let all = all_of(world);
    for (from, to) in all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to))) {
        if is_in(from) != is_in(to) {
            world.machines.net.cut(from, to);
        }
    }
}

/// Most machines come back soon; some stay off until they are switched on.
fn restart_soon(world: &Arc<World>, id: NodeId) {
    if happens(700) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            // A process that is started anew at once may be back before anybody has missed it.
            sleep(pause(*one_of(&[20_000, 6_000_000]))).await;
            world.machines.reap();
            world.tell(format_args!("{id} comes back"));
            world.machines.start(id);
        });
    }
}

async fn transfer(world: &Arc<World>) {
    let group = *one_of(&[0, 1, 2].map(GroupId));
    let Some(by) = world.machines.any() else { return };
    let map = std::sync::Arc::clone(&by.node.catalog().map);
    let replicas: Vec<ReplicaId> = map.group(group).into_iter().flat_map(|g| g.voters().map(|v| v.replica)).collect();
    if replicas.is_empty() {
        return;
    }
    let to = *one_of(&replicas);
    world.tell(format_args!("replica {to} of group {group} is to lead"));
    let (proposer, courier) = (Arc::clone(&by.node.proposer), Arc::clone(&by.node.courier));
    tokio::spawn(async move {
        let _ =
            tokio::time::timeout(Duration::from_secs(10), reconciler::transfer(&proposer, &*courier, group, to)).await;
    });
}

fn drain(world: &Arc<World>, node: NodeId) {
    let Some(by) = world.machines.any() else { return };
    let state = if happens(500) { NodeState::Draining } else { NodeState::Active };
    world.tell(format_args!("node {node} is to be {state:?}"));
    tokio::spawn(async move {
        let command = CatalogCommand::SetNodeState { node, state };
        let _ = tokio::time::timeout(Duration::from_secs(20), by.node.propose_catalog(command)).await;
    });
}
