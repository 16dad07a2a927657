//! How a node is configured before it starts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Fields, Node};
use crate::netns::Netns;

/// What is written into `skerry.toml` before a node starts.
#[derive(Debug, Default)]
pub struct NodeBuilder {
    sections: Vec<(String, Fields)>,
    data_dir: Option<PathBuf>,
    token: Option<String>,
    environment: Fields,
    netns: Option<Netns>,
}

impl NodeBuilder {
    /// Sets a key to a value in TOML notation, in place of an earlier value. Sections are written
    /// as in the file: `cache`, `sites.default`, `sites."cdn.example.org"`.
    pub fn set(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        let at = match self.sections.iter().position(|(name, _)| name == section) {
            Some(at) => at,
            None => {
                self.sections.push((section.to_owned(), Vec::new()));
                self.sections.len() - 1
            }
        };
        let keys = &mut self.sections[at].1;
        keys.retain(|(name, _)| name != key);
        keys.push((key.to_owned(), value.to_string()));
        self
    }

    /// Sets a key to a string.
    pub fn text(self, section: &str, key: &str, value: &str) -> Self {
        self.set(section, key, format!("{value:?}"))
    }

    /// Keeps the data there instead of in a folder that ends with the node.
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = Some(path.to_owned());
        self
    }

    /// Guards the admin listener with this bearer token.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Sets a variable in the environment of the node.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the node in a network namespace. Whoever starts it or talks to it does so inside.
    pub fn within(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Writes the configuration and starts nothing.
    pub fn write(mut self) -> Node {
        let folder =
            tempfile::Builder::new().prefix("skerry-test-").tempdir().expect("a folder for the node");
        let data_dir = self.data_dir.take().unwrap_or_else(|| folder.path().join("data"));
        let mut builder = self.text("node", "data_dir", &data_dir.to_string_lossy());
        let token = builder.token.take();
        if let Some(token) = &token {
            let file = folder.path().join("token");
            std::fs::write(&file, token).expect("the token is written");
            builder = builder.text("admin", "token_file", &file.to_string_lossy());
        }
        let config = folder.path().join("skerry.toml");
        let mut text = String::new();
        for (section, keys) in &builder.sections {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
            text.push('\n');
        }
        std::fs::write(&config, text).expect("the configuration is written");
        Node {
            folder,
            data_dir,
            config,
            token,
            environment: builder.environment,
            netns: builder.netns,
            child: None,
            reader: None,
            stderr: Arc::new(Mutex::new(Vec::new())),
            listeners: None,
        }
    }

    /// Writes the configuration, starts the node and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Node {
        let mut node = self.write();
        node.start();
        node
    }
}
