//! Resources over BitTorrent: peers that others wrote get all of what a node holds, whatever version,
//! address family and encryption they come with, and give nothing for it. What is not held is not
//! talked about.

mod clients;
mod refused;
mod served;
mod torrents;
mod trackers;
