//! What a box does beside running its node, and the part of `skerry.toml` that says how.
//!
//! [`config`] reads the tables `[network]`, `[update]` and `[box]`, and of the node's what it needs. Of them are
//! made, anew at every boot: networkd's files ([`network`]), the packet filter ([`firewall`]), and the sockets
//! that systemd opens for the node ([`sockets`]); [`generated`] writes them.
//!
//! A box decrypts [`credentials`], comes by its configuration in [`provision`], shows how it is on its
//! [`screen`], is on [`trial`] after an [`update`], proves itself in [`health`] and goes back in
//! [`rollback`]. [`debug`] is for developers. [`disk`], [`gpt`], [`fat`] and [`efi`] know where things are
//! before there is a system, [`cmdline`] stops a boot that was told more than was signed, [`machine_id`]
//! makes the identity that the image does not have, and [`layout`] says where the rest is. [`status`] is
//! what is wrong, for whoever asks.
//!
//! The program `skerry-box` runs one of these a call; units in `systemd/` say when. Nothing here serves anybody.

pub mod cmdline;
pub mod config;
pub mod credentials;
pub mod debug;
pub mod disk;
pub mod efi;
pub mod facts;
pub mod fat;
pub mod files;
pub mod firewall;
pub mod generated;
pub mod gpt;
pub mod health;
pub mod http;
pub mod layout;
pub mod machine_id;
pub mod network;
pub mod process;
pub mod provision;
pub mod rollback;
pub mod screen;
pub mod sockets;
pub mod status;
pub mod toml;
pub mod trial;
pub mod update;
