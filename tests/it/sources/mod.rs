//! Sources over the network, end to end: a web server and git servers on loopback, and what builds make
//! of what they send.

mod contexts;
mod git;
mod http;
mod server;
