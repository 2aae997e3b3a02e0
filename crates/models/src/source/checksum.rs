//! Checksums, computed from files as they are on disk: what was downloaded is read back before it is believed.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A checksum that somebody announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Lower-case hexadecimal, of the content.
    Sha256(String),
    /// Lower-case hexadecimal, of git's blob: the content behind a header with its length.
    #[cfg(feature = "hub")]
    GitBlob(String),
}

impl Checksum {
    /// Reads a checksum as the hub announces it: the ETag of a file in large file storage is the sha256 of its
    /// content, that of any other file its git hash.
    #[cfg(feature = "hub")]
    pub(super) fn from_etag(etag: &str) -> Option<Checksum> {
        let etag = etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        match etag.len() {
            64 if is_hex(&etag) => Some(Checksum::Sha256(etag)),
            40 if is_hex(&etag) => Some(Checksum::GitBlob(etag)),
            _ => None,
        }
    }

    /// The digits.
    pub(super) fn hex(&self) -> &str {
        match self {
            Checksum::Sha256(hex) => hex,
            #[cfg(feature = "hub")]
            Checksum::GitBlob(hex) => hex,
        }
    }

    /// Compares a file with the checksum; `name` stands for the file in the error.
    pub(super) fn verify(&self, path: &Path, name: &str) -> Result<()> {
        let found = self.of_same_kind(path)?;
        if found == *self {
            return Ok(());
        }
        Err(Error::Checksum { file: name.into(), expected: self.to_string(), found: found.to_string() })
    }

    fn of_same_kind(&self, path: &Path) -> Result<Checksum> {
        let unreadable = |source| Error::ReadFile { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        match self {
            Checksum::Sha256(_) => digest(Sha256::new(), &mut file).map(Checksum::Sha256),
            #[cfg(feature = "hub")]
            Checksum::GitBlob(_) => file.metadata().and_then(|metadata| {
                let header = format!("blob {}\0", metadata.len());
                digest(sha1::Sha1::new_with_prefix(header), &mut file).map(Checksum::GitBlob)
            }),
        }
        .map_err(unreadable)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Checksum::Sha256(_) => "sha256",
            #[cfg(feature = "hub")]
            Checksum::GitBlob(_) => "git hash",
        };
        write!(f, "{kind} {}", self.hex())
    }
}

/// Whether a text consists of hexadecimal digits, in lower case as checksums and commits are written.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn digest(mut hasher: impl Digest, file: &mut File) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sha256_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        Checksum::Sha256(SHA256.into()).verify(&path, "abc").unwrap();

        let wrong = Checksum::Sha256("00".repeat(32)).verify(&path, "the file").unwrap_err().to_string();
        assert!(wrong.starts_with("the file: checksum mismatch: expected sha256 0000"), "{wrong}");
        assert!(wrong.ends_with(SHA256), "{wrong}");
    }

    /// The empty blob and `echo 'test content' | git hash-object --stdin` from the Git Book, 10.2.
    #[test]
    #[cfg(feature = "hub")]
    fn git_hash_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (content, hash) in [
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            ("test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4"),
        ] {
            let path = folder.path().join(hash);
            std::fs::write(&path, content).unwrap();
            Checksum::GitBlob(hash.into()).verify(&path, "a blob").unwrap();
        }
    }

    #[test]
    #[cfg(feature = "hub")]
    fn etags() {
        let quoted = format!("\"{}\"", SHA256.to_uppercase());
        assert_eq!(Checksum::from_etag(&quoted), Some(Checksum::Sha256(SHA256.into())));
        assert_eq!(Checksum::from_etag(&SHA256[..40]), Some(Checksum::GitBlob(SHA256[..40].into())));
        let weak = format!("W/\"{}\"", &SHA256[..40]);
        assert_eq!(Checksum::from_etag(&weak), Some(Checksum::GitBlob(SHA256[..40].into())));
        for hostile in ["", "../../../../etc/passwd", "d41d8cd98f00b204e9800998ecf8427e-2", &"g".repeat(40)] {
            assert_eq!(Checksum::from_etag(hostile), None, "{hostile}");
        }
    }
}
