//! Files that are mapped into memory, whose pages are given back once they were read.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A weights file in memory, shared by whoever holds bytes of it.
#[derive(Clone, Debug)]
pub(crate) struct MappedFile {
    map: Arc<Mmap>,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only. A file that another process truncates while it is mapped would fault;
        // weights in caches are replaced by rename, which leaves the mapped file intact.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self { map: Arc::new(map) })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// The whole file, which stays mapped for as long as any part of this is held.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// Gives the memory of `bytes` back to the system if they are this file's, so that weights are not resident
    /// twice, as they are in the file and as a kernel wants them. Reading them again fetches them again.
    pub(crate) fn release(&self, bytes: &[u8]) {
        #[cfg(unix)]
        {
            // Whole pages only: the others hold bytes of a neighbour that may not have been read.
            const PAGE: usize = 4096;
            let Some(start) = (bytes.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize) else {
                return;
            };
            let (start, end) = (start.next_multiple_of(PAGE), (start + bytes.len()) / PAGE * PAGE);
            if start < end && end <= self.map.len() {
                // SAFETY: the map is read-only and of a file, so dropped pages come back with the same contents.
                // That it fails costs memory, nothing else.
                let _ = unsafe {
                    self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> (tempfile::TempDir, MappedFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, (0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        (folder, mapped)
    }

    #[test]
    fn released_bytes_are_fetched_again() {
        let (_folder, mapped) = file(100_000);
        let expected = mapped.as_slice().to_vec();
        let bytes = mapped.bytes().slice(5_000..99_000);
        mapped.release(&bytes);
        mapped.release(mapped.as_slice());
        assert_eq!(bytes, expected[5_000..99_000]);
        assert_eq!(mapped.as_slice(), expected);
    }

    /// Pages of the map that are in this process's memory.
    #[cfg(target_os = "linux")]
    fn resident_kib(mapped: &MappedFile) -> usize {
        let first = format!("{:x}-", mapped.as_slice().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let lines = smaps.lines().skip_while(|line| !line.starts_with(&first));
        let rss = lines.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_bytes_take_no_memory() {
        let (_folder, mapped) = file(8 << 20);
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        let before = sum(mapped.as_slice());
        assert_eq!(resident_kib(&mapped), 8 << 10);
        mapped.release(&mapped.as_slice()[4096..(4 << 20) + 4096]);
        // Where pages are huge, those that the range only touches go too.
        assert!(resident_kib(&mapped) <= 4 << 10);
        assert_eq!(sum(mapped.as_slice()), before);
    }

    #[test]
    fn memory_that_is_not_the_files_is_left_alone() {
        let (_folder, mapped) = file(10_000);
        let other = vec![7u8; 1 << 20];
        mapped.release(&other);
        assert!(other.iter().all(|&byte| byte == 7));
    }
}
