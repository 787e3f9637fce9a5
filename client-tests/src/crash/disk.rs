//! A small file system that can really be full.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A tmpfs. It is unmounted when dropped.
pub struct SmallDisk {
    folder: PathBuf,
    mib: u32,
}

impl SmallDisk {
    /// # Errors
    /// When the system refuses to mount, as it does for most users but root.
    pub fn mount(folder: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(folder);
        match mount.stdin(Stdio::null()).output() {
            Ok(done) if done.status.success() => Ok(Self { folder: folder.to_path_buf(), mib }),
            Ok(done) => Err(format!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&done.stderr).trim())),
            Err(problem) => Err(format!("cannot run mount: {problem}")),
        }
    }

    /// Whether this process may mount one.
    pub fn is_possible() -> bool {
        tempfile::tempdir().is_ok_and(|folder| Self::mount(folder.path(), 1).is_ok())
    }

    /// Takes all room but for `left` bytes.
    ///
    /// # Errors
    /// When the file that takes it cannot be created.
    pub fn fill(&self, left: u64) -> Result<(), String> {
        let mut ballast = File::create(self.ballast()).map_err(|e| format!("cannot create a file: {e}"))?;
        let piece = vec![0xff; 64 << 10];
        while ballast.write_all(&piece).is_ok() {}
        while ballast.write_all(&piece[..4096]).is_ok() {}
        let length = ballast.metadata().map_err(|e| e.to_string())?.len();
        ballast.set_len(length.saturating_sub(left)).map_err(|e| e.to_string())
    }

    /// Multiplies the size of the file system by `times`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn grow(&self, times: u32) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={}m", self.mib * times)]).arg(&self.folder);
        match mount.status() {
            Ok(status) if status.success() => Ok(()),
            ended => Err(format!("cannot make the disk larger: {ended:?}")),
        }
    }

    /// Gives the room back. Returns whether it was taken.
    pub fn relieve(&self) -> bool {
        fs::remove_file(self.ballast()).is_ok()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounts lazily: a process that was just killed may still hold a file.
        _ = Command::new("umount").arg("-l").arg(&self.folder).stderr(Stdio::null()).status();
    }
}
