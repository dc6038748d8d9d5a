//! A file system in memory that breaks every promise a disk may break.
//!
//! It keeps two states apart: *live*, what the processes of the machine see, and *durable*, what is left after a power
//! cut. Content becomes durable by `sync_data`, in sectors of 512 bytes; directory entries by `sync_dir`. At a power cut
//! each sector and each change of a directory that was not synced is kept or lost by chance, independently of all
//! others, so the order of writes means nothing. A sync that fails by injection loses what it should have written and
//! forgets that it was ever to be written, as Linux does: the next sync then "succeeds".
//!
//! Directories themselves are always durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DirLock, Disk, DiskFile, FileBytes};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A kind of disk operation, for injecting errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Making a file.
    Create,
    /// Opening a file.
    Open,
    /// Reading from a file or a whole file.
    Read,
    /// Writing to a file.
    Write,
    /// Changing a file's length.
    SetLen,
    /// Syncing a file.
    SyncData,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Listing or making a directory.
    Directory,
    /// Syncing a directory.
    SyncDir,
}

/// A disk in memory with faults to order. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    directories: BTreeMap<PathBuf, Directory>,
    locked: BTreeSet<PathBuf>,
    operations: u64,
    crash_after: Option<u64>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ, or may, between the two.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Directory {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// What leads from `durable` to `live`.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Link { name: String, inode: u64 },
    Unlink { name: String },
    Rename { from: String, to: String, inode: u64 },
}

#[derive(Clone)]
struct Fault {
    operation: Operation,
    /// So many operations of the kind succeed before.
    after: u64,
    /// So many fail then.
    times: u64,
    kind: io::ErrorKind,
}

impl FakeDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as it comes back after the power was cut now: what was synced, and by chance (the seed's) any part of
    /// what was not. Seeds divisible by 8 lose all of that, those with rest 1 keep all. This disk is unchanged.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        let state = self.state();
        let mut chance = Chance::new(seed);
        let inodes = state.inodes.iter().map(|(&id, inode)| (id, inode.after_power_cut(&mut chance))).collect();
        let directories =
            state.directories.iter().map(|(path, dir)| (path.clone(), dir.after_power_cut(&mut chance))).collect();
        Self::from_state(State { inodes, directories, next_inode: state.next_inode, ..State::default() })
    }

    /// The disk as another process finds it after this one was killed: all that was written is there, but not more of
    /// it is durable. This disk is unchanged, and what is done to it later is not seen by the other.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        Self::from_state(State {
            inodes: state.inodes.clone(),
            next_inode: state.next_inode,
            directories: state.directories.clone(),
            ..State::default()
        })
    }

    /// Lets this many more operations happen; all after them fail and do nothing.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_after = Some(state.operations + operations);
    }

    /// Whether an operation was refused because of `crash_after`.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        let state = self.state();
        state.crash_after.is_some_and(|limit| state.operations > limit)
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `times` operations of this kind fail after `after` more have succeeded.
    pub fn fail(&self, operation: Operation, after: u64, times: u64, kind: io::ErrorKind) {
        self.state().faults.push(Fault { operation, after, times, kind });
    }

    /// Whether every error that was ordered has happened.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state().faults.iter().all(|fault| fault.times == 0)
    }

    /// Limits the bytes of all files; `None` lifts the limit. What would exceed it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Flips these bits of one byte, in live and durable state alike.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn corrupt(&self, path: &Path, offset: u64, bits: u8) {
        let mut state = self.state();
        let inode = state.find(path).ok().and_then(|id| state.inodes.get_mut(&id));
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let byte = inode.and_then(|inode| {
            if let Some(byte) = inode.durable.get_mut(at) {
                *byte ^= bits;
            }
            inode.live.get_mut(at)
        });
        assert!(byte.is_some(), "no byte {offset} in a file {}", path.display());
        if let Some(byte) = byte {
            *byte ^= bits;
        }
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: u64) -> Box<dyn DiskFile> {
        Box::new(FakeFile { disk: self.clone(), inode })
    }
}

impl fmt::Debug for FakeDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeDisk({} operations)", self.operations())
    }
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Operation::Create)?;
        let id = state.next_inode;
        let (dir, name) = state.directory(path)?;
        if dir.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.live.insert(name.clone(), id);
        dir.pending.push(Change::Link { name, inode: id });
        state.next_inode += 1;
        state.inodes.insert(id, Inode::default());
        drop(state);
        Ok(self.file(id))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Operation::Open)?;
        let id = state.find(path)?;
        drop(state);
        Ok(self.file(id))
    }

    fn read(&self, path: &Path) -> io::Result<FileBytes> {
        let mut state = self.state();
        state.begin(Operation::Read)?;
        let id = state.find(path)?;
        Ok(state.inode(id)?.live.clone().into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.parent() != to.parent() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a rename must stay within the directory"));
        }
        let mut state = self.state();
        state.begin(Operation::Rename)?;
        let (_, to) = state.directory(to)?;
        let (dir, from) = state.directory(from)?;
        let inode = dir.live.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        dir.live.insert(to.clone(), inode);
        dir.pending.push(Change::Rename { from, to, inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::Remove)?;
        let (dir, name) = state.directory(path)?;
        dir.live.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        dir.pending.push(Change::Unlink { name });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin(Operation::Directory)?;
        let dir = state.directories.get(dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.live.keys().cloned().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Operation::Directory)?;
        state.directories.entry(dir.to_path_buf()).or_default();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let result = state.begin(Operation::SyncDir);
        if state.crashed() {
            return result;
        }
        let dir = state.directories.get_mut(dir).ok_or(io::ErrorKind::NotFound)?;
        dir.pending.clear();
        if result.is_ok() {
            dir.durable = dir.live.clone();
        }
        result
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let mut state = self.state();
        if !state.locked.insert(dir.to_path_buf()) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is in use", dir.display())));
        }
        drop(state);
        Ok(DirLock { _held: Box::new(FakeLock { disk: self.clone(), dir: dir.to_path_buf() }) })
    }
}

struct FakeLock {
    disk: FakeDisk,
    dir: PathBuf,
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.dir);
    }
}

struct FakeFile {
    disk: FakeDisk,
    inode: u64,
}

impl DiskFile for FakeFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(Operation::Read)?;
        let start = index(offset)?;
        let live = &state.inode(self.inode)?.live;
        let bytes = live.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(Operation::Write)?;
        let start = index(offset)?;
        let free = state.free();
        let inode = state.inode(self.inode)?;
        let growth = (start + bytes.len()).saturating_sub(inode.live.len());
        // A full disk takes as much as fits.
        let fits = bytes.len() - growth.saturating_sub(free).min(bytes.len());
        inode.write(start, &bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let result = state.begin(Operation::SyncData);
        if state.crashed() {
            return result;
        }
        let inode = state.inode(self.inode)?;
        if result.is_ok() {
            inode.sync();
        }
        // A failed sync is forgotten like a successful one.
        inode.dirty.clear();
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(Operation::SetLen)?;
        let len = index(len)?;
        let free = state.free();
        let inode = state.inode(self.inode)?;
        if len.saturating_sub(inode.live.len()) > free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let changed = inode.live.len().min(len)..inode.live.len().max(len);
        inode.live.resize(len, 0);
        inode.touch(changed.start, changed.end);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inode(self.inode)?.live.len() as u64)
    }
}

impl State {
    /// Counts an operation, and says whether it may happen.
    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        self.operations += 1;
        if self.crashed() {
            return Err(io::Error::other("the disk is gone"));
        }
        for fault in self.faults.iter_mut().filter(|fault| fault.operation == operation && fault.times > 0) {
            if fault.after > 0 {
                fault.after -= 1;
            } else {
                fault.times -= 1;
                return Err(fault.kind.into());
            }
        }
        Ok(())
    }

    fn crashed(&self) -> bool {
        self.crash_after.is_some_and(|limit| self.operations > limit)
    }

    fn directory(&mut self, path: &Path) -> io::Result<(&mut Directory, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.directories.get_mut(parent).ok_or(io::ErrorKind::NotFound)?;
        Ok((dir, name.to_owned()))
    }

    fn find(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = self.directory(path)?;
        dir.live.get(&name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let linked = self.directories.values().flat_map(|dir| dir.live.values());
        linked.filter_map(|id| self.inodes.get(id)).map(|inode| inode.live.len() as u64).sum()
    }

    /// Bytes by which files may grow.
    fn free(&self) -> usize {
        let free = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        usize::try_from(free).unwrap_or(usize::MAX)
    }
}

impl Inode {
    fn write(&mut self, start: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = start + bytes.len();
        let old = self.live.len();
        if end > old {
            self.live.resize(end, 0);
        }
        self.live[start..end].copy_from_slice(bytes);
        self.touch(start.min(old), end);
    }

    fn touch(&mut self, start: usize, end: usize) {
        if start < end {
            self.dirty.extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for &sector in &self.dirty {
            copy_sector(&self.live, &mut self.durable, sector);
        }
    }

    fn after_power_cut(&self, chance: &mut Chance) -> Self {
        let mut bytes = self.durable.clone();
        if self.live.len() != self.durable.len() && chance.keeps() {
            bytes.resize(self.live.len(), 0);
        }
        for &sector in &self.dirty {
            if chance.keeps() {
                let end = self.live.len().min((sector + 1) * SECTOR_BYTES);
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                copy_sector(&self.live, &mut bytes, sector);
            }
        }
        Self { live: bytes.clone(), durable: bytes, dirty: BTreeSet::new() }
    }
}

/// Copies one sector as far as both have it.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl Directory {
    fn after_power_cut(&self, chance: &mut Chance) -> Self {
        let mut entries = self.durable.clone();
        for change in self.pending.iter().filter(|_| chance.keeps()) {
            match change {
                Change::Link { name, inode } => {
                    entries.insert(name.clone(), *inode);
                }
                Change::Unlink { name } => {
                    entries.remove(name);
                }
                Change::Rename { from, to, inode } => {
                    if entries.get(from) == Some(inode) {
                        entries.remove(from);
                    }
                    entries.insert(to.clone(), *inode);
                }
            }
        }
        Self { live: entries.clone(), durable: entries, pending: Vec::new() }
    }
}

/// A small generator (splitmix64): the same seed gives the same power cut everywhere.
struct Chance {
    state: u64,
    always: Option<bool>,
}

impl Chance {
    fn new(seed: u64) -> Self {
        let always = match seed % 8 {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        Self { state: seed, always }
    }

    /// Whether something that was not synced is on disk all the same.
    fn keeps(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.always.unwrap_or((mixed ^ (mixed >> 31)) & 1 == 1)
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> FakeDisk {
        let disk = FakeDisk::new();
        disk.create_dir(Path::new("d")).unwrap();
        disk
    }

    fn content(disk: &FakeDisk, path: &str) -> Vec<u8> {
        disk.read(Path::new(path)).unwrap().to_vec()
    }

    #[test]
    fn unsynced_sectors_are_kept_or_lost_each_by_itself() {
        let disk = disk();
        let file = disk.create(Path::new("d/f")).unwrap();
        file.write_at(0, &[1; 4096]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        file.write_at(0, &[2; 4096]).unwrap();
        assert_eq!(content(&disk.power_cut(0), "d/f"), [1; 4096]);
        assert_eq!(content(&disk.power_cut(1), "d/f"), [2; 4096]);
        let mixed = (2..7).map(|seed| content(&disk.power_cut(seed), "d/f"));
        assert!(mixed.into_iter().any(|bytes| bytes.contains(&1) && bytes.contains(&2)));
        assert_eq!(content(&disk.after_kill(), "d/f"), [2; 4096]);
    }

    #[test]
    fn unsynced_entries_can_be_lost_and_synced_ones_cannot() {
        let disk = disk();
        disk.create(Path::new("d/old")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        disk.rename(Path::new("d/old"), Path::new("d/new")).unwrap();
        let outcomes: BTreeSet<Vec<String>> =
            (0..32).map(|seed| disk.power_cut(seed).list(Path::new("d")).unwrap()).collect();
        assert_eq!(outcomes, BTreeSet::from([vec!["old".to_owned()], vec!["new".to_owned()]]));
        disk.sync_dir(Path::new("d")).unwrap();
        assert_eq!(disk.power_cut(0).list(Path::new("d")).unwrap(), ["new"]);
    }

    #[test]
    fn a_failed_sync_is_lost_and_the_next_one_lies() {
        let disk = disk();
        let file = disk.create(Path::new("d/f")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        disk.fail(Operation::SyncData, 0, 1, io::ErrorKind::Other);
        file.write_at(0, b"x").unwrap();
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        assert_eq!(content(&disk, "d/f"), b"x");
        assert_ne!(content(&disk.power_cut(0), "d/f"), b"x");
    }

    #[test]
    fn nothing_happens_after_the_crash() {
        let disk = disk();
        let file = disk.create(Path::new("d/f")).unwrap();
        disk.crash_after(1);
        file.write_at(0, b"a").unwrap();
        assert!(!disk.has_crashed());
        assert!(file.write_at(1, b"b").is_err());
        assert!(file.sync_data().is_err());
        assert!(disk.has_crashed());
        assert_eq!(content(&disk.after_kill(), "d/f"), b"a");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_says_so() {
        let disk = disk();
        disk.set_capacity(Some(10));
        let file = disk.create(Path::new("d/f")).unwrap();
        assert_eq!(file.write_at(0, &[7; 12]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.used(), 10);
        file.write_at(0, &[8; 10]).unwrap();
        disk.remove(Path::new("d/f")).unwrap();
        disk.create(Path::new("d/g")).unwrap().write_at(0, &[9; 10]).unwrap();
    }
}
