//! The origin of a database, as its manifest gives it.

use super::Manifest;

/// Under this name a manifest's settings keep the databases that it descends from, so that they are known when one in
/// between is deleted.
pub const ANCESTORS: &str = "ancestors";

/// The origin of a database, and its expiry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The database that it was branched from, that one's source, and so on; empty for one that is no branch.
    pub ancestors: Vec<String>,
    /// When it was made; 0 while the store does not know it.
    pub created_ms: u64,
    /// When to delete it.
    pub expires_ms: Option<u64>,
    /// Bytes in the store that belong to other databases.
    pub shared_bytes: u64,
}

impl Lineage {
    pub fn of(manifest: &Manifest) -> Self {
        let mut ancestors: Vec<String> = manifest.source.iter().cloned().collect();
        if let Some(further) = manifest.settings.get(ANCESTORS) {
            ancestors.extend(further.split('\n').map(str::to_owned));
        }
        Self {
            ancestors,
            created_ms: manifest.created_ms,
            expires_ms: manifest.expires_ms,
            shared_bytes: manifest.shared_bytes(),
        }
    }

    pub fn source(&self) -> Option<&str> {
        self.ancestors.first().map(String::as_str)
    }
}
