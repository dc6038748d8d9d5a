//! The operating system's file system below one directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{DirLock, Disk, DiskFile, FileBytes, mapping};

/// Name of the file that marks a directory as taken. It is never written or removed; the kernel keeps the lock.
const LOCK_FILE: &str = "lock";

/// The operating system's file system, below one directory.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk rooted at this directory, which is created if need be. Paths given to the disk are relative to it.
    ///
    /// # Errors
    /// When the directory cannot be created or opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        create_durable_dir(root)?;
        // Absolute, so that a later change of the working directory does not move the disk.
        Ok(Self { root: root.canonicalize()? })
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.root.join(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<FileBytes> {
        mapping::map(&File::open(self.root.join(path))?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(dir))? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        create_durable_dir(&self.root.join(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(&self.root.join(dir))
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let path = self.root.join(dir).join(LOCK_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _held: Box::new(file) }),
            Err(TryLockError::WouldBlock) => {
                let text = format!("{} is in use by another process; stop it first", self.root.join(dir).display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A file of the operating system.
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Makes a directory and those above it, and puts each new one's entry on disk.
fn create_durable_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durable_dir(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        result => result?,
    }
    sync_dir(parent)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_renamed_listed_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&dir.path().join("a/b")).unwrap();
        disk.create_dir(Path::new("x/y")).unwrap();
        let file = disk.create(Path::new("x/y/one")).unwrap();
        file.write_at(3, b"abc").unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.create(Path::new("x/y/one")).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        disk.rename(Path::new("x/y/one"), Path::new("x/y/two")).unwrap();
        disk.sync_dir(Path::new("x/y")).unwrap();
        assert_eq!(disk.list(Path::new("x/y")).unwrap(), ["two"]);
        let bytes = disk.read(Path::new("x/y/two")).unwrap();
        disk.remove(Path::new("x/y/two")).unwrap();
        assert_eq!(&*bytes, b"\0\0\0abc", "a removed file stays readable where it is mapped");
        assert_eq!(disk.open(Path::new("x/y/two")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reading_beyond_the_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create(Path::new("f")).unwrap();
        assert!(disk.read(Path::new("f")).unwrap().is_empty());
        file.set_len(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        assert_eq!(file.read_at(5, &mut [0; 6]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let held = disk.lock(Path::new("")).unwrap();
        assert_eq!(disk.lock(Path::new("")).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(held);
        disk.lock(Path::new("")).unwrap();
    }
}
