//! Where things are on a box. Tests have a box of their own below a temporary folder.

use std::io;
use std::path::{Path, PathBuf};

/// Largest configuration that is taken, bytes.
pub const MOST_CONFIG: u64 = 256 << 10;
/// The user that the node runs as, and the group that may read its configuration.
pub const NODE_USER: &str = "skerry";

/// The folders of a box, below a root that is `/` but in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    credentials: Option<PathBuf>,
}

impl Default for Layout {
    /// This box, with the credentials that systemd gives this service.
    fn default() -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self { credentials, ..Self::below("/") }
    }
}

impl Layout {
    /// A box whose root is this folder.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), credentials: None }
    }

    /// The same box, for a service that has its credentials in this folder.
    #[cfg(test)]
    pub(crate) fn with_credentials(self, folder: impl Into<PathBuf>) -> Self {
        Self { credentials: Some(folder.into()), ..self }
    }

    /// The folder of the credentials of this service; `None` when it has none.
    pub fn credentials(&self) -> Option<&Path> {
        self.credentials.as_deref()
    }

    /// A path, written without its leading `/`.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Folder of the node's configuration and certificates. In the image it is a link to `/var`, since the
    /// root is read-only.
    pub fn config_dir(&self) -> PathBuf {
        self.at("etc/skerry")
    }

    /// The node's configuration, and the box's.
    pub fn config(&self) -> PathBuf {
        self.config_dir().join("skerry.toml")
    }

    /// There while the configuration asks for more than the box has (`skerry-box provision`); units ask for it
    /// too.
    pub fn refused(&self) -> PathBuf {
        self.runtime().join("refused")
    }

    /// Whether there is a configuration that the box goes by.
    pub fn is_provisioned(&self) -> bool {
        self.config().is_file() && !self.refused().exists()
    }

    /// What the box remembers of itself, on `/var`.
    pub fn state(&self) -> PathBuf {
        self.at("var/lib/skerry-box")
    }

    /// What the box tells of itself until it is switched off.
    pub fn runtime(&self) -> PathBuf {
        self.at("run/skerry-box")
    }

    /// The number of [`NODE_USER`]; `None` where there is none.
    pub fn node_user(&self) -> Option<u32> {
        self.number("etc/passwd")
    }

    /// The number of the group of that name; `None` where there is none.
    pub fn node_group(&self) -> Option<u32> {
        self.number("etc/group")
    }

    fn number(&self, file: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.at(file)).ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(NODE_USER))?;
        line.split(':').nth(2)?.parse().ok()
    }

    /// Makes the folder of the configuration, also where a link leads to a folder that is not there yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_config_dir(&self) -> io::Result<()> {
        let dir = self.config_dir();
        let folder = match std::fs::read_link(&dir) {
            Ok(link) => match link.strip_prefix("/") {
                Ok(absolute) => self.at(absolute),
                Err(_) => self.at("etc").join(link),
            },
            Err(_) => dir,
        };
        if folder.is_dir() {
            return Ok(());
        }
        crate::files::make_dir(&folder, 0o750, self.node_group())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_folder_of_the_configuration_is_made_where_the_link_leads() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        std::fs::create_dir(root.path().join("etc")).unwrap();
        symlink("../var/lib/skerry-box/config", layout.config_dir()).unwrap();
        layout.make_config_dir().unwrap();
        layout.make_config_dir().unwrap();
        let made = std::fs::metadata(root.path().join("var/lib/skerry-box/config")).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o750);
        std::fs::write(layout.config(), "").unwrap();
    }

    #[test]
    fn user_and_group_of_the_node_are_looked_up() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert_eq!(layout.node_group(), None);
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/group"), "root:x:0:\nskerryx:x:7:\nskerry:x:994:\n").unwrap();
        assert_eq!((layout.node_group(), layout.node_user()), (Some(994), None));
        std::fs::write(root.path().join("etc/passwd"), "skerry:x:993:994::/:/usr/sbin/nologin\n").unwrap();
        assert_eq!(layout.node_user(), Some(993));
    }
}
